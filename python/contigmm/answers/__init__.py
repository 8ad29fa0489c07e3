"""Verdicts about real machines, found by running requests on a machine booted from them."""

from contigmm.answers.explain import Explanation, explain
from contigmm.answers.howmany import HowMany, howmany
from contigmm.answers.request import Request, RequestError

__all__ = ["Explanation", "HowMany", "Request", "RequestError", "explain", "howmany"]
