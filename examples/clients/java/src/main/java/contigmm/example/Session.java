package contigmm.example;

import contigmm.v1.BatchOuterClass.Batch;
import contigmm.v1.BatchOuterClass.BatchAnswers;
import contigmm.v1.BatchOuterClass.OpenSession;
import contigmm.v1.BatchOuterClass.OperateRequest;
import contigmm.v1.BatchOuterClass.OperateResponse;
import contigmm.v1.BatchOuterClass.SessionOpened;
import io.grpc.ClientCall;
import io.grpc.Metadata;
import io.grpc.Status;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;

/** One stream of a session: each message sent gets one answer, in order. */
final class Session {
  private final ClientCall<OperateRequest, OperateResponse> call;
  /** Answers, and the status once the stream has ended. */
  private final BlockingQueue<Object> received = new LinkedBlockingQueue<>();

  Session(Services services, String machine) throws InterruptedException {
    call =
        services.open(
            "BatchService/Operate",
            OperateRequest.getDefaultInstance(),
            OperateResponse.getDefaultInstance());
    call.start(
        new ClientCall.Listener<>() {
          @Override
          public void onMessage(OperateResponse message) {
            received.add(message);
            call.request(1);
          }

          @Override
          public void onClose(Status status, Metadata trailers) {
            received.add(status);
          }
        },
        new Metadata());
    call.request(1);
    OpenSession opening =
        OpenSession.newBuilder().setMachine(machine).setSession("client-session").build();
    SessionOpened opened = ask(OperateRequest.newBuilder().setOpen(opening).build()).getOpened();
    System.out.printf(
        "stream: session %s, last applied %d%n", opened.getSession(), opened.getLastApplied());
  }

  BatchAnswers run(Batch batch) throws InterruptedException {
    return ask(OperateRequest.newBuilder().setBatch(batch).build()).getAnswers();
  }

  /** Breaks the stream. */
  void cancel() {
    call.cancel("lost on purpose", null);
  }

  /** Ends the stream in order. */
  void close() throws InterruptedException {
    call.halfClose();
    if (!(received.take() instanceof Status status && status.isOk())) {
      throw new IllegalStateException("the stream should have ended");
    }
  }

  private OperateResponse ask(OperateRequest request) throws InterruptedException {
    call.sendMessage(request);
    Object answer = received.take();
    if (answer instanceof Status status) {
      throw status.asRuntimeException();
    }
    return (OperateResponse) answer;
  }
}
