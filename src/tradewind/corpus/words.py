"""Two English word lists: verbs that open a summary in the imperative, and words that tell no function from another."""

_VERBS = """
add append apply assign build calculate cast change check clip clone close combine compile compute concatenate
construct convert copy count create decode delete detect determine display divide draw drop encode estimate evaluate
exclude execute extend extract fill filter find fit format generate get give group import initialize insert
integrate interpolate invert iterate join list load log make map merge modify move multiply normalize open parse
perform plot print produce project randomly read reduce register remove rename render repeat replace reset reshape
resolve retrieve reverse rotate round run sample save scale search select send serialize set shift show shuffle
simulate solve sort split stack start stop subtract sum swap test train transform transpose truncate update validate
verify write
"""
_STOP_WORDS = """
the and for with from that this are can its into return returns given which not all any each one per has have was
will use used using via also other than when where such been being their between over under out function method
class object value values whether compute computes get set create creates new if of
"""
VERBS = frozenset(_VERBS.split())
STOP_WORDS = frozenset(_STOP_WORDS.split())
