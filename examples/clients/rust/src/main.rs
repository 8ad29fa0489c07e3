//! Talks to a contigmm server in the ways that every client needs, and prints a transcript that does
//! not depend on the server's age: names and addresses are compared, not printed.

mod retry;

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tonic_types::StatusExt as _;

use crate::retry::{Policy, code_name};
use crate::v1::answer::Result as Outcome;
use crate::v1::batch_service_client::BatchServiceClient;
use crate::v1::machine_service_client::MachineServiceClient;
use crate::v1::memory_service_client::MemoryServiceClient;
use crate::v1::operation::Call;
use crate::v1::process_service_client::ProcessServiceClient;
use crate::v1::view_service_client::ViewServiceClient;

#[allow(clippy::all, clippy::pedantic, reason = "generated")]
mod v1 {
    tonic::include_proto!("contigmm.v1");
}

// Words of the ABI: include/uapi/asm-generic/mman-common.h, v6.12; MAP_CONTIG is the RFC's.
const PROT_RW: u64 = 0x1 | 0x2;
const ANONYMOUS: u64 = 0x2 | 0x20;
const MAP_CONTIG: u64 = 0x80000;
const PAGE: u64 = 4096;
const DEADLINE: Duration = Duration::from_secs(30);

type Failure = Box<dyn std::error::Error>;

struct Client {
    machines: MachineServiceClient<Channel>,
    processes: ProcessServiceClient<Channel>,
    memory: MemoryServiceClient<Channel>,
    batches: BatchServiceClient<Channel>,
    views: ViewServiceClient<Channel>,
    policy: Policy,
    started_ns: u128,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, service_config] = arguments.as_slice() else {
        eprintln!("usage: client HOST:PORT SERVICE_CONFIG");
        return ExitCode::from(2);
    };
    match talk(address, service_config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("client: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn talk(address: &str, service_config: &str) -> Result<(), Failure> {
    let policy = Policy::read(&std::fs::read_to_string(service_config)?)?;
    let channel = Endpoint::from_shared(format!("http://{address}"))?
        .timeout(DEADLINE)
        .connect()
        .await?;
    let client = Client {
        machines: MachineServiceClient::new(channel.clone()),
        processes: ProcessServiceClient::new(channel.clone()),
        memory: MemoryServiceClient::new(channel.clone()),
        batches: BatchServiceClient::new(channel.clone()),
        views: ViewServiceClient::new(channel),
        policy,
        started_ns: SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos(),
    };
    let machine = client.boot().await?;
    let process = client.spawn(&machine).await?;
    client.map_once(&process).await?;
    client.be_refused(&process).await?;
    client.run_stream(&machine, &process).await?;
    client.watch(&machine).await?;
    client.exit(&process).await?;
    client.ask_for_nobody().await;
    client.delete(&machine).await
}

impl Client {
    /// Boots a machine of 256 MiB, all free.
    async fn boot(&self) -> Result<String, Failure> {
        let zone = v1::ZoneDescription {
            name: "Normal".into(),
            spanned: 65536,
            ..Default::default()
        };
        let request = v1::CreateMachineRequest {
            parameters: Some(v1::BootParameters {
                seed: 1,
                ..Default::default()
            }),
            description: Some(v1::MachineDescription {
                origin: "a client's example".into(),
                cpus: 2,
                zones: vec![zone],
                ..Default::default()
            }),
            request_id: self.request_id("boot"),
        };
        let answer = self
            .policy
            .run(async || self.machines.clone().create_machine(request.clone()).await);
        let machine = answer.await?.machine.ok_or("no machine was answered")?;
        let profile = machine.profile().as_str_name();
        println!(
            "boot: {} frames, {} cpus, {profile}",
            machine.frames, machine.cpus
        );
        Ok(machine.name)
    }

    async fn spawn(&self, machine: &str) -> Result<v1::Process, Failure> {
        let limit = v1::Rlimit {
            soft: 16 << 20,
            hard: 16 << 20,
        };
        let request = v1::SpawnProcessRequest {
            machine: machine.into(),
            spec: Some(v1::ProcessSpec {
                name: "client".into(),
                uid: 1000,
                rlimits: HashMap::from([("MEMLOCK".into(), limit)]),
                ..Default::default()
            }),
            request_id: self.request_id("spawn"),
            ..Default::default()
        };
        let answer = self
            .policy
            .run(async || self.processes.clone().spawn_process(request.clone()).await);
        let Some(v1::spawn_process_response::Result::Process(process)) = answer.await?.result
        else {
            return Err("no process was answered".into());
        };
        let took = process.spec.as_ref().ok_or("no spec was answered")?;
        println!(
            "spawn: {}, uid {}, MEMLOCK {}",
            took.name, took.uid, took.rlimits["MEMLOCK"].soft
        );
        Ok(process)
    }

    /// Maps a contiguous run and asks again under the same request id.
    async fn map_once(&self, process: &v1::Process) -> Result<(), Failure> {
        let mut request = v1::MmapRequest {
            process: process.name.clone(),
            call: Some(anonymous(2 << 20, MAP_CONTIG)),
            request_id: self.request_id("mmap"),
            ..Default::default()
        };
        let first = self.mmap(&request).await?;
        let again = self.mmap(&request).await?;
        let address = match &first.result {
            Some(v1::mmap_response::Result::Address(address)) => *address,
            _ => 0,
        };
        let aligned = address % PAGE == 0 && address != 0;
        let same = first == again;
        println!("mmap: page-aligned {aligned}; retried by request id, same answer {same}");
        request.call = Some(anonymous(PAGE, MAP_CONTIG));
        let failed = described(&self.mmap(&request).await);
        println!("mmap: same request id, other body: {failed}");
        Ok(())
    }

    /// Asks for what the simulated kernel refuses: an answer, not a failed call.
    async fn be_refused(&self, process: &v1::Process) -> Result<(), Failure> {
        for (index, call) in [anonymous(0, 0), anonymous(64 << 20, MAP_CONTIG)]
            .into_iter()
            .enumerate()
        {
            let request = v1::MmapRequest {
                process: process.name.clone(),
                call: Some(call),
                request_id: self.request_id(&format!("refused-{index}")),
                ..Default::default()
            };
            let answer = self.mmap(&request).await?;
            let Some(v1::mmap_response::Result::Failure(refusal)) = answer.result else {
                return Err("nothing was refused".into());
            };
            let reason = refusal.reason().as_str_name();
            println!(
                "refused: errno {} {}, {reason}",
                refusal.errno, refusal.errno_name
            );
        }
        Ok(())
    }

    async fn mmap(&self, request: &v1::MmapRequest) -> Result<v1::MmapResponse, Status> {
        self.policy
            .run(async || self.memory.clone().mmap(request.clone()).await)
            .await
    }

    /// Runs a batch in a session, loses the answer on purpose, and goes on in a new stream.
    async fn run_stream(&self, machine: &str, process: &v1::Process) -> Result<(), Failure> {
        let batch = batch_of(process.id);
        let mut lost = self.open(machine).await?;
        let one = lost.run(&batch).await?;
        drop(lost);
        let mut session = self.open(machine).await?;
        let two = session.run(&batch).await?;
        for (index, answer) in two.answers.iter().enumerate() {
            println!("batch[{index}]: {}", shown(answer));
        }
        let same = one.machine_seq == two.machine_seq;
        println!("batch: asked again after a broken stream, same answers {same}");
        session.close().await
    }

    async fn open(&self, machine: &str) -> Result<Session, Failure> {
        let (requests, sent) = mpsc::unbounded_channel();
        let opening = v1::OpenSession {
            machine: machine.into(),
            session: "client-session".into(),
            received: 0,
        };
        requests.send(v1::OperateRequest {
            part: Some(v1::operate_request::Part::Open(opening)),
        })?;
        let answers = self
            .batches
            .clone()
            .operate(UnboundedReceiverStream::new(sent))
            .await?
            .into_inner();
        let mut session = Session { requests, answers };
        let Some(v1::operate_response::Part::Opened(opened)) = session.answer().await?.part else {
            return Err("the session was not opened".into());
        };
        println!(
            "stream: session {}, last applied {}",
            opened.session, opened.last_applied
        );
        Ok(session)
    }

    /// Looks at the machine's state as it is now.
    async fn watch(&self, machine: &str) -> Result<(), Failure> {
        let request = v1::WatchMachineRequest {
            machine: machine.into(),
            interval: None,
        };
        let states = self
            .policy
            .run(async || self.views.clone().watch_machine(request.clone()).await);
        let state = states
            .await?
            .message()
            .await?
            .ok_or("no state was answered")?;
        println!(
            "watch: machine_seq {}, {} process, {} zone, {} orders",
            state.machine_seq,
            state.process_count,
            state.zones.len(),
            state.zones[0].free_blocks.len()
        );
        Ok(())
    }

    async fn exit(&self, process: &v1::Process) -> Result<(), Failure> {
        let request = v1::ExitProcessRequest {
            process: process.name.clone(),
            call: None,
            request_id: self.request_id("exit"),
            ..Default::default()
        };
        let answer = self
            .policy
            .run(async || self.processes.clone().exit_process(request.clone()).await);
        let machine_seq = answer.await?.machine_seq;
        let request = v1::GetProcessRequest {
            process: process.name.clone(),
        };
        let again = self
            .policy
            .run(async || self.processes.clone().get_process(request.clone()).await);
        println!(
            "exit: machine_seq {machine_seq}; asked again: {}",
            described(&again.await)
        );
        Ok(())
    }

    async fn ask_for_nobody(&self) {
        let request = v1::GetMachineRequest {
            machine: "machines/nobody".into(),
        };
        let answer = self
            .policy
            .run(async || self.machines.clone().get_machine(request.clone()).await);
        println!("nobody: {}", described(&answer.await));
    }

    async fn delete(&self, machine: &str) -> Result<(), Failure> {
        let request = v1::DeleteMachineRequest {
            machine: machine.into(),
            request_id: self.request_id("delete"),
        };
        let answer = self
            .policy
            .run(async || self.machines.clone().delete_machine(request.clone()).await);
        println!("delete: machine_seq {}", answer.await?.machine_seq);
        Ok(())
    }

    /// Returns an id that is new in every run, and the same when a call is retried within one.
    fn request_id(&self, name: &str) -> String {
        format!("rust-{}-{name}", self.started_ns)
    }
}

/// One stream of a session; dropping it breaks the stream.
struct Session {
    requests: mpsc::UnboundedSender<v1::OperateRequest>,
    answers: Streaming<v1::OperateResponse>,
}

impl Session {
    async fn run(&mut self, batch: &v1::Batch) -> Result<v1::BatchAnswers, Failure> {
        let part = v1::operate_request::Part::Batch(batch.clone());
        self.requests
            .send(v1::OperateRequest { part: Some(part) })?;
        match self.answer().await?.part {
            Some(v1::operate_response::Part::Answers(answers)) => Ok(answers),
            _ => Err("the batch was not answered".into()),
        }
    }

    async fn answer(&mut self) -> Result<v1::OperateResponse, Failure> {
        Ok(self
            .answers
            .message()
            .await?
            .ok_or("the stream ended early")?)
    }

    /// Ends the stream in order.
    async fn close(mut self) -> Result<(), Failure> {
        drop(self.requests);
        match self.answers.message().await? {
            None => Ok(()),
            Some(_) => Err("the stream should have ended".into()),
        }
    }
}

fn anonymous(length: u64, more_flags: u64) -> v1::MmapCall {
    v1::MmapCall {
        length,
        prot: PROT_RW,
        flags: ANONYMOUS | more_flags,
        ..Default::default()
    }
}

/// Returns a batch of which some succeeds, some is refused, one is skipped and one faults.
fn batch_of(process: u64) -> v1::Batch {
    let touch = |address, length, write| {
        Call::Touch(v1::TouchCall {
            address,
            length,
            write,
        })
    };
    let unmap = Call::Munmap(v1::MunmapCall {
        address: 0,
        length: 4 * PAGE,
    });
    let operations = [
        (None, Call::Mmap(anonymous(4 * PAGE, 0))),
        (Some(0), touch(0, 4 * PAGE, true)),
        (Some(0), unmap),
        (None, Call::Mmap(anonymous(0, 0))),
        (Some(3), touch(0, PAGE, false)),
        (None, touch(PAGE, PAGE, false)),
    ];
    v1::Batch {
        first_operation: 1,
        operations: operations
            .into_iter()
            .map(|(addr_from, call)| v1::Operation {
                process,
                addr_from,
                call: Some(call),
            })
            .collect(),
        ..Default::default() // a later server may know more fields
    }
}

/// Tells what an operation did.
fn shown(answer: &v1::Answer) -> String {
    match &answer.result {
        Some(Outcome::Value(value)) if *value >= 1 << 32 => "an address".into(),
        Some(Outcome::Value(value)) => format!("value {value}"),
        Some(Outcome::Failure(refusal)) => {
            format!(
                "refused, {}, {}",
                refusal.errno_name,
                refusal.reason().as_str_name()
            )
        }
        Some(Outcome::Fault(fault)) => {
            format!(
                "signal {}, code {}, address {:#x}",
                fault.signal, fault.code, fault.address
            )
        }
        Some(Outcome::Skip(skip)) => format!("skipped because of operation {}", skip.because),
        Some(Outcome::Data(_)) | None => "nothing".into(),
    }
}

/// Tells a call that should fail by its code and the reason in its `ErrorInfo`.
fn described<A>(answer: &Result<A, Status>) -> String {
    match answer {
        Ok(_) => "OK".into(),
        Err(status) => {
            let code = code_name(status.code());
            match status.get_details_error_info() {
                Some(info) => format!("{code} {}", info.reason),
                None => code,
            }
        }
    }
}
