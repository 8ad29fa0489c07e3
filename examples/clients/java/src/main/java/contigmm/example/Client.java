package contigmm.example;

import com.google.gson.Gson;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import contigmm.v1.BatchOuterClass.Batch;
import contigmm.v1.BatchOuterClass.BatchAnswers;
import contigmm.v1.Description.MachineDescription;
import contigmm.v1.Description.ZoneDescription;
import contigmm.v1.MachineOuterClass.BootParameters;
import contigmm.v1.MachineOuterClass.CreateMachineRequest;
import contigmm.v1.MachineOuterClass.CreateMachineResponse;
import contigmm.v1.MachineOuterClass.DeleteMachineRequest;
import contigmm.v1.MachineOuterClass.DeleteMachineResponse;
import contigmm.v1.MachineOuterClass.GetMachineRequest;
import contigmm.v1.MachineOuterClass.GetMachineResponse;
import contigmm.v1.MachineOuterClass.Machine;
import contigmm.v1.Memory.MmapRequest;
import contigmm.v1.Memory.MmapResponse;
import contigmm.v1.OperationOuterClass.Answer;
import contigmm.v1.OperationOuterClass.MmapCall;
import contigmm.v1.OperationOuterClass.MunmapCall;
import contigmm.v1.OperationOuterClass.Operation;
import contigmm.v1.OperationOuterClass.ProcessSpec;
import contigmm.v1.OperationOuterClass.Rlimit;
import contigmm.v1.OperationOuterClass.TouchCall;
import contigmm.v1.ProcessOuterClass.ExitProcessRequest;
import contigmm.v1.ProcessOuterClass.ExitProcessResponse;
import contigmm.v1.ProcessOuterClass.GetProcessRequest;
import contigmm.v1.ProcessOuterClass.GetProcessResponse;
import contigmm.v1.ProcessOuterClass.Process;
import contigmm.v1.ProcessOuterClass.SpawnProcessRequest;
import contigmm.v1.ProcessOuterClass.SpawnProcessResponse;
import contigmm.v1.View.WatchMachineRequest;
import contigmm.v1.View.WatchMachineResponse;
import io.grpc.Context;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;

/**
 * Talks to a contigmm server in the ways that every client needs, and prints a transcript that does
 * not depend on the server's age: names and addresses are compared, not printed.
 */
public final class Client {
  // Words of the ABI: include/uapi/asm-generic/mman-common.h, v6.12; MAP_CONTIG is the RFC's.
  private static final long PROT_RW = 0x1 | 0x2;
  private static final long ANONYMOUS = 0x2 | 0x20;
  private static final long MAP_CONTIG = 0x80000;
  private static final long PAGE = 4096;

  private static final long STARTED = System.nanoTime();

  private final Services services;

  private Client(Services services) {
    this.services = services;
  }

  public static void main(String[] arguments) throws IOException, InterruptedException {
    if (arguments.length != 2) {
      System.err.println("usage: Client HOST:PORT SERVICE_CONFIG");
      System.exit(2);
    }
    String json = Files.readString(Path.of(arguments[1]));
    @SuppressWarnings("unchecked")
    Map<String, Object> serviceConfig = new Gson().fromJson(json, Map.class);
    ManagedChannel channel =
        Grpc.newChannelBuilder(arguments[0], InsecureChannelCredentials.create())
            .defaultServiceConfig(serviceConfig)
            .enableRetry()
            .build();
    try {
      new Client(new Services(channel)).run();
    } catch (StatusRuntimeException failed) {
      System.err.println("client: " + failed.getMessage());
      System.exit(1);
    } finally {
      channel.shutdownNow();
    }
  }

  private void run() throws InterruptedException {
    String machine = boot();
    Process process = spawn(machine);
    mapOnce(process);
    beRefused(process);
    runStream(machine, process);
    watch(machine);
    exit(process);
    askForNobody();
    delete(machine);
  }

  /** Returns an id that is new in every run, and the same when a call is retried within one. */
  private static String requestId(String name) {
    return "java-" + ProcessHandle.current().pid() + "-" + STARTED + "-" + name;
  }

  /** Boots a machine of 256 MiB, all free. */
  private String boot() {
    MachineDescription description =
        MachineDescription.newBuilder()
            .setOrigin("a client's example")
            .setCpus(2)
            .addZones(ZoneDescription.newBuilder().setName("Normal").setSpanned(65536))
            .build();
    CreateMachineRequest request =
        CreateMachineRequest.newBuilder()
            .setParameters(BootParameters.newBuilder().setSeed(1))
            .setDescription(description)
            .setRequestId(requestId("boot"))
            .build();
    Machine machine =
        services
            .call(
                "MachineService/CreateMachine", request, CreateMachineResponse.getDefaultInstance())
            .getMachine();
    System.out.printf(
        "boot: %d frames, %d cpus, %s%n",
        machine.getFrames(), machine.getCpus(), machine.getProfile());
    return machine.getName();
  }

  private Process spawn(String machine) {
    Rlimit limit = Rlimit.newBuilder().setSoft(16 << 20).setHard(16 << 20).build();
    ProcessSpec spec =
        ProcessSpec.newBuilder().setName("client").setUid(1000).putRlimits("MEMLOCK", limit).build();
    SpawnProcessRequest request =
        SpawnProcessRequest.newBuilder()
            .setMachine(machine)
            .setSpec(spec)
            .setRequestId(requestId("spawn"))
            .build();
    Process process =
        services
            .call("ProcessService/SpawnProcess", request, SpawnProcessResponse.getDefaultInstance())
            .getProcess();
    ProcessSpec took = process.getSpec();
    System.out.printf(
        "spawn: %s, uid %d, MEMLOCK %d%n",
        took.getName(), took.getUid(), took.getRlimitsOrThrow("MEMLOCK").getSoft());
    return process;
  }

  /** Maps a contiguous run and asks again under the same request id. */
  private void mapOnce(Process process) {
    MmapRequest request = mmap(process, "mmap", anonymous(2 << 20, MAP_CONTIG));
    MmapResponse first = mmap(request);
    MmapResponse again = mmap(request);
    boolean aligned = first.getAddress() % PAGE == 0 && first.getAddress() != 0;
    System.out.printf(
        "mmap: page-aligned %b; retried by request id, same answer %b%n",
        aligned, first.equals(again));
    MmapRequest other = mmap(process, "mmap", anonymous(PAGE, MAP_CONTIG));
    System.out.println(
        "mmap: same request id, other body: " + failureOf(() -> mmap(other)));
  }

  /** Asks for what the simulated kernel refuses: an answer, not a failed call. */
  private void beRefused(Process process) {
    List<MmapCall> calls = List.of(anonymous(0, 0), anonymous(64 << 20, MAP_CONTIG));
    for (int index = 0; index < calls.size(); index++) {
      var failure = mmap(mmap(process, "refused-" + index, calls.get(index))).getFailure();
      System.out.printf(
          "refused: errno %d %s, %s%n",
          failure.getErrno(), failure.getErrnoName(), failure.getReason());
    }
  }

  private MmapResponse mmap(MmapRequest request) {
    return services.call("MemoryService/Mmap", request, MmapResponse.getDefaultInstance());
  }

  private static MmapRequest mmap(Process process, String id, MmapCall call) {
    return MmapRequest.newBuilder()
        .setProcess(process.getName())
        .setCall(call)
        .setRequestId(requestId(id))
        .build();
  }

  private static MmapCall anonymous(long length, long moreFlags) {
    return MmapCall.newBuilder()
        .setLength(length)
        .setProt(PROT_RW)
        .setFlags(ANONYMOUS | moreFlags)
        .build();
  }

  /** Runs a batch in a session, loses the answer on purpose, and goes on in a new stream. */
  private void runStream(String machine, Process process) throws InterruptedException {
    Batch batch = batchOf(process.getId());
    Session lost = new Session(services, machine);
    BatchAnswers one = lost.run(batch);
    lost.cancel();
    Session session = new Session(services, machine);
    BatchAnswers two = session.run(batch);
    for (int index = 0; index < two.getAnswersCount(); index++) {
      System.out.printf("batch[%d]: %s%n", index, shown(two.getAnswers(index)));
    }
    System.out.printf(
        "batch: asked again after a broken stream, same answers %b%n",
        one.getMachineSeq() == two.getMachineSeq());
    session.close();
  }

  /** Returns a batch of which some succeeds, some is refused, one is skipped and one faults. */
  private static Batch batchOf(long process) {
    TouchCall store = TouchCall.newBuilder().setLength(4 * PAGE).setWrite(true).build();
    MunmapCall unmap = MunmapCall.newBuilder().setLength(4 * PAGE).build();
    TouchCall load = TouchCall.newBuilder().setLength(PAGE).build();
    TouchCall nowhere = TouchCall.newBuilder().setAddress(PAGE).setLength(PAGE).build();
    return Batch.newBuilder()
        .setFirstOperation(1)
        .addOperations(operation(process).setMmap(anonymous(4 * PAGE, 0)))
        .addOperations(operation(process).setAddrFrom(0).setTouch(store))
        .addOperations(operation(process).setAddrFrom(0).setMunmap(unmap))
        .addOperations(operation(process).setMmap(anonymous(0, 0)))
        .addOperations(operation(process).setAddrFrom(3).setTouch(load))
        .addOperations(operation(process).setTouch(nowhere))
        .build();
  }

  private static Operation.Builder operation(long process) {
    return Operation.newBuilder().setProcess(process);
  }

  /** Tells what an operation did. */
  private static String shown(Answer answer) {
    return switch (answer.getResultCase()) {
      case VALUE ->
          answer.getValue() >= 1L << 32 ? "an address" : "value " + answer.getValue();
      case FAILURE ->
          "refused, "
              + answer.getFailure().getErrnoName()
              + ", "
              + answer.getFailure().getReason();
      case FAULT ->
          String.format(
              "signal %d, code %d, address 0x%x",
              answer.getFault().getSignal(),
              answer.getFault().getCode(),
              answer.getFault().getAddress());
      case SKIP -> "skipped because of operation " + answer.getSkip().getBecause();
      default -> "nothing";
    };
  }

  /** Looks at the machine's state as it is now. */
  private void watch(String machine) {
    WatchMachineRequest request = WatchMachineRequest.newBuilder().setMachine(machine).build();
    Context.CancellableContext watching = Context.current().withCancellation();
    Context before = watching.attach();
    try {
      WatchMachineResponse state =
          services
              .stream("ViewService/WatchMachine", request, WatchMachineResponse.getDefaultInstance())
              .next();
      System.out.printf(
          "watch: machine_seq %d, %d process, %d zone, %d orders%n",
          state.getMachineSeq(),
          state.getProcessCount(),
          state.getZonesCount(),
          state.getZones(0).getFreeBlocksCount());
    } finally {
      watching.detach(before);
      watching.cancel(null);
    }
  }

  private void exit(Process process) {
    ExitProcessRequest request =
        ExitProcessRequest.newBuilder()
            .setProcess(process.getName())
            .setRequestId(requestId("exit"))
            .build();
    ExitProcessResponse answer =
        services.call(
            "ProcessService/ExitProcess", request, ExitProcessResponse.getDefaultInstance());
    GetProcessRequest again = GetProcessRequest.newBuilder().setProcess(process.getName()).build();
    String failed =
        failureOf(
            () ->
                services.call(
                    "ProcessService/GetProcess", again, GetProcessResponse.getDefaultInstance()));
    System.out.printf("exit: machine_seq %d; asked again: %s%n", answer.getMachineSeq(), failed);
  }

  private void askForNobody() {
    GetMachineRequest request =
        GetMachineRequest.newBuilder().setMachine("machines/nobody").build();
    System.out.println(
        "nobody: "
            + failureOf(
                () ->
                    services.call(
                        "MachineService/GetMachine",
                        request,
                        GetMachineResponse.getDefaultInstance())));
  }

  private void delete(String machine) {
    DeleteMachineRequest request =
        DeleteMachineRequest.newBuilder()
            .setMachine(machine)
            .setRequestId(requestId("delete"))
            .build();
    DeleteMachineResponse answer =
        services.call(
            "MachineService/DeleteMachine", request, DeleteMachineResponse.getDefaultInstance());
    System.out.printf("delete: machine_seq %d%n", answer.getMachineSeq());
  }

  /** Tells a call that should fail by its code and the reason in its ErrorInfo. */
  private static String failureOf(Runnable call) {
    try {
      call.run();
    } catch (StatusRuntimeException failed) {
      String code = failed.getStatus().getCode().name();
      for (Any detail : StatusProto.fromThrowable(failed).getDetailsList()) {
        if (detail.is(ErrorInfo.class)) {
          return code + " " + errorInfo(detail).getReason();
        }
      }
      return code;
    }
    return "OK";
  }

  private static ErrorInfo errorInfo(Any detail) {
    try {
      return detail.unpack(ErrorInfo.class);
    } catch (InvalidProtocolBufferException unreadable) {
      throw new IllegalStateException("an ErrorInfo that is none", unreadable);
    }
  }
}
