package contigmm.example;

import com.google.protobuf.Descriptors;
import com.google.protobuf.Message;
import contigmm.v1.BatchOuterClass;
import contigmm.v1.MachineOuterClass;
import contigmm.v1.Memory;
import contigmm.v1.ProcessOuterClass;
import contigmm.v1.View;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.protobuf.ProtoUtils;
import io.grpc.stub.ClientCalls;
import java.util.Iterator;
import java.util.List;
import java.util.concurrent.TimeUnit;

/**
 * The methods of contigmm.v1, found by their names in the protos' own descriptors, so that a build
 * needs protoc and no plugin of it.
 */
final class Services {
  private static final List<Descriptors.FileDescriptor> FILES =
      List.of(
          MachineOuterClass.getDescriptor(),
          ProcessOuterClass.getDescriptor(),
          Memory.getDescriptor(),
          BatchOuterClass.getDescriptor(),
          View.getDescriptor());
  private static final long DEADLINE_S = 30;

  private final Channel channel;

  Services(Channel channel) {
    this.channel = channel;
  }

  /** Makes a unary call such as {@code MemoryService/Mmap}. */
  <Q extends Message, A extends Message> A call(String method, Q request, A answer) {
    return ClientCalls.blockingUnaryCall(
        channel, described(method, request, answer), options(), request);
  }

  /** Makes a call that is answered by a stream; cancel the context to end it early. */
  <Q extends Message, A extends Message> Iterator<A> stream(String method, Q request, A answer) {
    return ClientCalls.blockingServerStreamingCall(
        channel, described(method, request, answer), options(), request);
  }

  /** Begins a call with a stream in both directions. */
  <Q extends Message, A extends Message> ClientCall<Q, A> open(String method, Q request, A answer) {
    return channel.newCall(described(method, request, answer), options());
  }

  private static CallOptions options() {
    return CallOptions.DEFAULT.withDeadlineAfter(DEADLINE_S, TimeUnit.SECONDS);
  }

  @SuppressWarnings("unchecked")
  private static <Q extends Message, A extends Message> MethodDescriptor<Q, A> described(
      String method, Q request, A answer) {
    Descriptors.MethodDescriptor found = find(method);
    return MethodDescriptor.<Q, A>newBuilder()
        .setFullMethodName(
            MethodDescriptor.generateFullMethodName(
                found.getService().getFullName(), found.getName()))
        .setType(type(found))
        .setRequestMarshaller(ProtoUtils.marshaller((Q) request.getDefaultInstanceForType()))
        .setResponseMarshaller(ProtoUtils.marshaller((A) answer.getDefaultInstanceForType()))
        .build();
  }

  private static MethodType type(Descriptors.MethodDescriptor method) {
    if (method.isClientStreaming()) {
      return MethodType.BIDI_STREAMING;
    }
    return method.isServerStreaming() ? MethodType.SERVER_STREAMING : MethodType.UNARY;
  }

  private static Descriptors.MethodDescriptor find(String method) {
    String[] parts = method.split("/");
    for (Descriptors.FileDescriptor file : FILES) {
      Descriptors.ServiceDescriptor service = file.findServiceByName(parts[0]);
      if (service != null) {
        return service.findMethodByName(parts[1]);
      }
    }
    throw new IllegalArgumentException("no such method: " + method);
  }
}
