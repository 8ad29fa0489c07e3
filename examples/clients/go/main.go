// Command client talks to a contigmm server in the ways that every client needs, and prints a
// transcript that does not depend on the server's age: names, addresses and positions are compared,
// not printed.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	v1 "contigmm.example/client/contigmmv1"
)

// Words of the ABI: include/uapi/asm-generic/mman-common.h, v6.12; mapContig is the RFC's.
const (
	protRW    = 0x1 | 0x2
	anonymous = 0x2 | 0x20
	mapContig = 0x80000
	page      = 4096
)

type client struct {
	machines  v1.MachineServiceClient
	processes v1.ProcessServiceClient
	memory    v1.MemoryServiceClient
	batches   v1.BatchServiceClient
	views     v1.ViewServiceClient
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("usage: client HOST:PORT SERVICE_CONFIG")
	}
	serviceConfig, err := os.ReadFile(os.Args[2])
	check(err)
	connection, err := grpc.NewClient(os.Args[1],
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(string(serviceConfig)))
	check(err)
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c := client{
		machines:  v1.NewMachineServiceClient(connection),
		processes: v1.NewProcessServiceClient(connection),
		memory:    v1.NewMemoryServiceClient(connection),
		batches:   v1.NewBatchServiceClient(connection),
		views:     v1.NewViewServiceClient(connection),
	}
	machine := c.boot(ctx)
	process := c.spawn(ctx, machine)
	c.mapOnce(ctx, process)
	c.beRefused(ctx, process)
	c.runStream(ctx, machine, process)
	c.watch(ctx, machine)
	c.exit(ctx, process)
	c.askForNobody(ctx)
	c.delete(ctx, machine)
}

// boot makes a machine of 256 MiB, all free.
func (c client) boot(ctx context.Context) string {
	answer, err := c.machines.CreateMachine(ctx, &v1.CreateMachineRequest{
		Parameters: &v1.BootParameters{Seed: 1},
		Description: &v1.MachineDescription{
			Origin: "a client's example",
			Cpus:   2,
			Zones:  []*v1.ZoneDescription{{Name: "Normal", StartPfn: 0, Spanned: 65536}},
		},
		RequestId: requestID("boot"),
	})
	check(err)
	m := answer.GetMachine()
	fmt.Printf("boot: %d frames, %d cpus, %s\n", m.Frames, m.Cpus, m.Profile)
	return m.Name
}

func (c client) spawn(ctx context.Context, machine string) *v1.Process {
	answer, err := c.processes.SpawnProcess(ctx, &v1.SpawnProcessRequest{
		Machine: machine,
		Spec: &v1.ProcessSpec{
			Name:    "client",
			Uid:     1000,
			Rlimits: map[string]*v1.Rlimit{"MEMLOCK": {Soft: 16 << 20, Hard: 16 << 20}},
		},
		RequestId: requestID("spawn"),
	})
	check(err)
	p := answer.GetProcess()
	limit := p.Spec.Rlimits["MEMLOCK"]
	fmt.Printf("spawn: %s, uid %d, MEMLOCK %d\n", p.Spec.Name, p.Spec.Uid, limit.Soft)
	return p
}

// mapOnce maps a contiguous run and asks again under the same request id.
func (c client) mapOnce(ctx context.Context, process *v1.Process) {
	request := &v1.MmapRequest{
		Process:   process.Name,
		Call:      &v1.MmapCall{Length: 2 << 20, Prot: protRW, Flags: anonymous | mapContig},
		RequestId: requestID("mmap"),
	}
	first, err := c.memory.Mmap(ctx, request)
	check(err)
	again, err := c.memory.Mmap(ctx, request)
	check(err)
	same := first.GetAddress() == again.GetAddress() && first.MachineSeq == again.MachineSeq
	fmt.Printf("mmap: page-aligned %t; retried by request id, same answer %t\n",
		first.GetAddress()%page == 0 && first.GetAddress() != 0, same)
	request.Call.Length = page
	_, err = c.memory.Mmap(ctx, request)
	fmt.Printf("mmap: same request id, other body: %s\n", described(err))
}

func (c client) beRefused(ctx context.Context, process *v1.Process) {
	for index, call := range []*v1.MmapCall{
		{Length: 0, Prot: protRW, Flags: anonymous},
		{Length: 64 << 20, Prot: protRW, Flags: anonymous | mapContig},
	} {
		answer, err := c.memory.Mmap(ctx, &v1.MmapRequest{
			Process:   process.Name,
			Call:      call,
			RequestId: requestID(fmt.Sprintf("refused-%d", index)),
		})
		check(err)
		f := answer.GetFailure()
		fmt.Printf("refused: errno %d %s, %s\n", f.Errno, f.ErrnoName, f.Reason)
	}
}

// runStream runs a batch in a session, loses the answer on purpose, and goes on in a new stream.
func (c client) runStream(ctx context.Context, machine string, process *v1.Process) {
	fault := uint32(3)
	at := uint32(0)
	batch := &v1.Batch{FirstOperation: 1, Operations: []*v1.Operation{
		{Process: process.Id, Call: &v1.Operation_Mmap{
			Mmap: &v1.MmapCall{Length: 4 * page, Prot: protRW, Flags: anonymous}}},
		{Process: process.Id, AddrFrom: &at, Call: &v1.Operation_Touch{
			Touch: &v1.TouchCall{Length: 4 * page, Write: true}}},
		{Process: process.Id, AddrFrom: &at, Call: &v1.Operation_Munmap{
			Munmap: &v1.MunmapCall{Length: 4 * page}}},
		{Process: process.Id, Call: &v1.Operation_Mmap{
			Mmap: &v1.MmapCall{Length: 0, Prot: protRW, Flags: anonymous}}},
		{Process: process.Id, AddrFrom: &fault, Call: &v1.Operation_Touch{
			Touch: &v1.TouchCall{Length: page}}},
		{Process: process.Id, Call: &v1.Operation_Touch{
			Touch: &v1.TouchCall{Address: page, Length: page}}},
	}}
	lost, cancel := context.WithCancel(ctx)
	first := c.open(lost, machine, "client-session")
	check(first.Send(&v1.OperateRequest{Part: &v1.OperateRequest_Batch{Batch: batch}}))
	one, err := first.Recv()
	check(err)
	cancel()
	second := c.open(ctx, machine, "client-session")
	check(second.Send(&v1.OperateRequest{Part: &v1.OperateRequest_Batch{Batch: batch}}))
	two, err := second.Recv()
	check(err)
	for index, answer := range two.GetAnswers().Answers {
		fmt.Printf("batch[%d]: %s\n", index, shown(answer))
	}
	fmt.Printf("batch: asked again after a broken stream, same answers %t\n",
		one.GetAnswers().MachineSeq == two.GetAnswers().MachineSeq)
	check(second.CloseSend())
	_, err = second.Recv()
	if err != io.EOF {
		check(fmt.Errorf("the stream should have ended: %w", err))
	}
}

func (c client) open(ctx context.Context, machine, session string) grpc.BidiStreamingClient[v1.OperateRequest, v1.OperateResponse] {
	stream, err := c.batches.Operate(ctx)
	check(err)
	opening := &v1.OpenSession{Machine: machine, Session: session}
	check(stream.Send(&v1.OperateRequest{Part: &v1.OperateRequest_Open{Open: opening}}))
	answer, err := stream.Recv()
	check(err)
	fmt.Printf("stream: session %s, last applied %d\n", answer.GetOpened().Session,
		answer.GetOpened().LastApplied)
	return stream
}

func shown(answer *v1.Answer) string {
	switch result := answer.Result.(type) {
	case *v1.Answer_Value:
		if result.Value >= 1<<32 {
			return "an address"
		}
		return fmt.Sprintf("value %d", result.Value)
	case *v1.Answer_Failure:
		return fmt.Sprintf("refused, %s, %s", result.Failure.ErrnoName, result.Failure.Reason)
	case *v1.Answer_Fault:
		return fmt.Sprintf("signal %d, code %d, address %#x", result.Fault.Signal,
			result.Fault.Code, result.Fault.Address)
	case *v1.Answer_Skip:
		return fmt.Sprintf("skipped because of operation %d", result.Skip.Because)
	default:
		return "nothing"
	}
}

func (c client) watch(ctx context.Context, machine string) {
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.views.WatchMachine(watching, &v1.WatchMachineRequest{Machine: machine})
	check(err)
	state, err := stream.Recv()
	check(err)
	fmt.Printf("watch: machine_seq %d, %d process, %d zone, %d orders\n", state.MachineSeq,
		state.ProcessCount, len(state.Zones), len(state.Zones[0].FreeBlocks))
}

func (c client) exit(ctx context.Context, process *v1.Process) {
	request := &v1.ExitProcessRequest{Process: process.Name, RequestId: requestID("exit")}
	answer, err := c.processes.ExitProcess(ctx, request)
	check(err)
	_, err = c.processes.GetProcess(ctx, &v1.GetProcessRequest{Process: process.Name})
	fmt.Printf("exit: machine_seq %d; asked again: %s\n", answer.MachineSeq, described(err))
}

func (c client) askForNobody(ctx context.Context) {
	_, err := c.machines.GetMachine(ctx, &v1.GetMachineRequest{Machine: "machines/nobody"})
	fmt.Printf("nobody: %s\n", described(err))
}

func (c client) delete(ctx context.Context, machine string) {
	answer, err := c.machines.DeleteMachine(ctx,
		&v1.DeleteMachineRequest{Machine: machine, RequestId: requestID("delete")})
	check(err)
	fmt.Printf("delete: machine_seq %d\n", answer.MachineSeq)
}

// described tells a failed call by its code and the reason in its ErrorInfo.
func described(err error) string {
	failed := status.Convert(err)
	name := code.Code(failed.Code()).String()
	for _, detail := range failed.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return name + " " + info.Reason
		}
	}
	return name
}

var started = time.Now().UnixNano()

// requestID is new in every run, and the same when a call is retried within one.
func requestID(name string) string {
	return fmt.Sprintf("go-%d-%s", started, name)
}

func check(err error) {
	if err != nil {
		log.Fatal("client: ", err)
	}
}
