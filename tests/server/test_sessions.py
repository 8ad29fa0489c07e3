"""What sessions remember is bounded, in operations and in bytes, alone and together."""

from contigmm.v1 import batch_pb2, operation_pb2
from contigmm_server.lifetimes import Stream
from contigmm_server.limits import Limits
from contigmm_server.sessions import Session, Sessions

SMALL = Limits(session_kept_bytes=4500, sessions_bytes=10_000)


def _kept(sessions: Sessions, name: str, answers: int) -> Session:
    """A session that has had so many answers of 1,000 bytes and more."""
    stream = Stream(ord(name))
    session = sessions.attach(name, stream, 0)
    for _ in range(answers):
        session.keep(1, _answer_of(1000), SMALL)
    return session


def _answer_of(size: int) -> batch_pb2.OperateResponse:
    answers = [operation_pb2.Answer(seq=1, data=bytes(size))]
    return batch_pb2.OperateResponse(answers=batch_pb2.BatchAnswers(answers=answers))


def test_answers_of_a_session_are_bounded_in_bytes():
    session = _kept(Sessions(SMALL), "a", 9)
    assert (session.last_applied, session.first_kept) == (9, 6)
    session.keep(1, _answer_of(100_000), SMALL)
    assert (session.first_kept, session.room.bytes == session.kept_bytes) == (10, True)


def test_answers_of_all_sessions_are_bounded_in_bytes_together():
    sessions = Sessions(SMALL)
    first, second, third = (_kept(sessions, name, 4) for name in "abc")
    assert third.first_kept == 4, "it keeps its last one, for the others have taken the room"
    for session in (first, second):
        assert session.stream is not None
        sessions.detach(session, session.stream)
    assert first.room.bytes <= 10_000
    third.keep(1, _answer_of(9000), SMALL)
    assert third.stream is not None
    sessions.detach(third, third.stream)
    assert (first.first_kept, second.first_kept, third.first_kept) == (5, 5, 5)
    assert first.room.bytes == third.kept_bytes
    again = sessions.attach("a", Stream(9), 0)
    assert again.last_applied == 4, "only its answers were dropped"
