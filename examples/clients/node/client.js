// Talks to a contigmm server in the ways that every client needs, and prints a transcript that does
// not depend on the server's age: names and addresses are compared, not printed.

import { readFileSync } from "node:fs";
import { once } from "node:events";

import grpc from "@grpc/grpc-js";
import { fromJSON, loadSync } from "@grpc/proto-loader";

// Words of the ABI: include/uapi/asm-generic/mman-common.h, v6.12; MAP_CONTIG is the RFC's.
const PROT_RW = 0x1 | 0x2;
const ANONYMOUS = 0x2 | 0x20;
const MAP_CONTIG = 0x80000;
const PAGE = 4096;
const DEADLINE_MS = 30_000;

// 64-bit numbers are strings: a JavaScript number is exact up to 2^53 only.
const LOADED = { keepCase: true, longs: String, enums: String, oneofs: true, defaults: true };

const started = process.hrtime.bigint();

/** Returns an id that is new in every run, and the same when a call is retried within one. */
const requestId = (name) => `node-${process.pid}-${started}-${name}`;
const deadline = () => new Date(Date.now() + DEADLINE_MS);

/** Connects the five services of a server. */
function connect(address, protos, serviceConfig) {
  const files = ["machine", "process", "memory", "batch", "view"];
  const definition = loadSync(
    files.map((file) => `contigmm/v1/${file}.proto`),
    { ...LOADED, includeDirs: [protos] },
  );
  const v1 = grpc.loadPackageDefinition(definition).contigmm.v1;
  const options = { "grpc.service_config": serviceConfig };
  const credentials = grpc.credentials.createInsecure();
  const services = {};
  for (const name of ["Machine", "Process", "Memory", "Batch", "View"]) {
    services[name] = new v1[`${name}Service`](address, credentials, options);
  }
  return services;
}

/** Makes a unary call; a failed one rejects with the ServiceError. */
function call(service, method, request) {
  return new Promise((resolve, reject) => {
    service[method](request, { deadline: deadline() }, (error, answer) =>
      error ? reject(error) : resolve(answer),
    );
  });
}

/** Boots a machine of 256 MiB, all free. */
async function boot({ Machine }) {
  const { machine } = await call(Machine, "CreateMachine", {
    parameters: { seed: 1 },
    description: {
      origin: "a client's example",
      cpus: 2,
      zones: [{ name: "Normal", start_pfn: 0, spanned: 65536 }],
    },
    request_id: requestId("boot"),
  });
  console.log(`boot: ${machine.frames} frames, ${machine.cpus} cpus, ${machine.profile}`);
  return machine.name;
}

async function spawn({ Process }, machine) {
  const limit = { soft: 16 << 20, hard: 16 << 20 };
  const spec = { name: "client", uid: 1000, rlimits: { MEMLOCK: limit } };
  const answer = await call(Process, "SpawnProcess", {
    machine,
    spec,
    request_id: requestId("spawn"),
  });
  const took = answer.process.spec;
  console.log(`spawn: ${took.name}, uid ${took.uid}, MEMLOCK ${took.rlimits.MEMLOCK.soft}`);
  return answer.process;
}

/** Maps a contiguous run and asks again under the same request id. */
async function mapOnce({ Memory }, { name }) {
  const request = {
    process: name,
    call: { length: 2 << 20, prot: PROT_RW, flags: ANONYMOUS | MAP_CONTIG },
    request_id: requestId("mmap"),
  };
  const first = await call(Memory, "Mmap", request);
  const again = await call(Memory, "Mmap", request);
  const address = BigInt(first.address);
  const aligned = address % BigInt(PAGE) === 0n && address !== 0n;
  const same = first.address === again.address && first.machine_seq === again.machine_seq;
  console.log(`mmap: page-aligned ${aligned}; retried by request id, same answer ${same}`);
  request.call.length = PAGE;
  const failed = await failureOf(call(Memory, "Mmap", request));
  console.log(`mmap: same request id, other body: ${failed}`);
}

/** Asks for what the simulated kernel refuses: an answer, not a failed call. */
async function beRefused({ Memory }, { name }) {
  const calls = [
    { length: 0, prot: PROT_RW, flags: ANONYMOUS },
    { length: 64 << 20, prot: PROT_RW, flags: ANONYMOUS | MAP_CONTIG },
  ];
  for (const [index, asked] of calls.entries()) {
    const { failure } = await call(Memory, "Mmap", {
      process: name,
      call: asked,
      request_id: requestId(`refused-${index}`),
    });
    console.log(`refused: errno ${failure.errno} ${failure.errno_name}, ${failure.reason}`);
  }
}

/** Runs a batch in a session, loses the answer on purpose, and goes on in a new stream. */
async function runStream({ Batch }, machine, { id }) {
  const batch = batchOf(id);
  const lost = await open(Batch, machine);
  lost.write({ batch });
  const [one] = await once(lost, "data");
  lost.on("error", () => {}); // the cancellation
  lost.cancel();
  const session = await open(Batch, machine);
  session.write({ batch });
  const [two] = await once(session, "data");
  for (const [index, answer] of two.answers.answers.entries()) {
    console.log(`batch[${index}]: ${shown(answer)}`);
  }
  const same = one.answers.machine_seq === two.answers.machine_seq;
  console.log(`batch: asked again after a broken stream, same answers ${same}`);
  session.end();
  await once(session, "end");
}

async function open(service, machine) {
  const stream = service.Operate({ deadline: deadline() });
  stream.write({ open: { machine, session: "client-session" } });
  const [{ opened }] = await once(stream, "data");
  console.log(`stream: session ${opened.session}, last applied ${opened.last_applied}`);
  return stream;
}

/** Returns a batch of which some succeeds, some is refused, one is skipped and one faults. */
function batchOf(process) {
  return {
    first_operation: 1,
    operations: [
      { process, mmap: { length: 4 * PAGE, prot: PROT_RW, flags: ANONYMOUS } },
      { process, addr_from: 0, touch: { length: 4 * PAGE, write: true } },
      { process, addr_from: 0, munmap: { length: 4 * PAGE } },
      { process, mmap: { length: 0, prot: PROT_RW, flags: ANONYMOUS } },
      { process, addr_from: 3, touch: { length: PAGE } },
      { process, touch: { address: PAGE, length: PAGE } },
    ],
  };
}

/** Tells what an operation did. */
function shown(answer) {
  const { failure, fault } = answer;
  switch (answer.result) {
    case "value":
      return BigInt(answer.value) >= 1n << 32n ? "an address" : `value ${answer.value}`;
    case "failure":
      return `refused, ${failure.errno_name}, ${failure.reason}`;
    case "fault": {
      const address = BigInt(fault.address).toString(16);
      return `signal ${fault.signal}, code ${fault.code}, address 0x${address}`;
    }
    case "skip":
      return `skipped because of operation ${answer.skip.because}`;
    default:
      return "nothing";
  }
}

/** Looks at the machine's state as it is now. */
async function watch({ View }, machine) {
  const states = View.WatchMachine({ machine });
  const [state] = await once(states, "data");
  states.on("error", () => {}); // the cancellation
  states.cancel();
  console.log(
    `watch: machine_seq ${state.machine_seq}, ${state.process_count} process,` +
      ` ${state.zones.length} zone, ${state.zones[0].free_blocks.length} orders`,
  );
}

async function exit({ Process }, { name }) {
  const request = { process: name, request_id: requestId("exit") };
  const answer = await call(Process, "ExitProcess", request);
  const failed = await failureOf(call(Process, "GetProcess", { process: name }));
  console.log(`exit: machine_seq ${answer.machine_seq}; asked again: ${failed}`);
}

async function askForNobody({ Machine }) {
  const failed = await failureOf(call(Machine, "GetMachine", { machine: "machines/nobody" }));
  console.log(`nobody: ${failed}`);
}

async function throwAway({ Machine }, machine) {
  const request = { machine, request_id: requestId("delete") };
  const answer = await call(Machine, "DeleteMachine", request);
  console.log(`delete: machine_seq ${answer.machine_seq}`);
}

// google.rpc.Status and ErrorInfo, as far as they are read here: what a failed call's trailer holds.
const STATUS = fromJSON(
  {
    nested: {
      Any: { fields: { type_url: { type: "string", id: 1 }, value: { type: "bytes", id: 2 } } },
      Status: { fields: { details: { rule: "repeated", type: "Any", id: 3 } } },
      ErrorInfo: { fields: { reason: { type: "string", id: 1 } } },
      Trailer: {
        methods: {
          Status: { requestType: "Status", responseType: "Status" },
          ErrorInfo: { requestType: "ErrorInfo", responseType: "ErrorInfo" },
        },
      },
    },
  },
  LOADED,
).Trailer;

/** Tells a call that should fail by its code and the reason in its ErrorInfo. */
async function failureOf(calling) {
  try {
    await calling;
  } catch (error) {
    const code = grpc.status[error.code];
    const [packed] = error.metadata.get("grpc-status-details-bin");
    for (const detail of packed ? STATUS.Status.requestDeserialize(packed).details : []) {
      if (detail.type_url.endsWith("/google.rpc.ErrorInfo")) {
        return `${code} ${STATUS.ErrorInfo.requestDeserialize(detail.value).reason}`;
      }
    }
    return code;
  }
  return "OK";
}

async function main() {
  const [protos, address, serviceConfig] = process.argv.slice(2);
  if (serviceConfig === undefined) {
    throw new Error("usage: node client.js PROTOS HOST:PORT SERVICE_CONFIG");
  }
  const services = connect(address, protos, readFileSync(serviceConfig, "utf8"));
  const machine = await boot(services);
  const simulated = await spawn(services, machine);
  await mapOnce(services, simulated);
  await beRefused(services, simulated);
  await runStream(services, machine, simulated);
  await watch(services, machine);
  await exit(services, simulated);
  await askForNobody(services);
  await throwAway(services, machine);
  for (const service of Object.values(services)) {
    service.close();
  }
}

try {
  await main();
} catch (error) {
  console.error(`client: ${error.message}`);
  process.exitCode = 1;
}
