"""A run whose parameters are shared out over ranks: each watches its blocks, sums are taken over all."""

from shockwatch.sharding.agreement import Agreement
from shockwatch.sharding.channel import Channel, LostRankError
from shockwatch.sharding.exchange import Exchange
from shockwatch.sharding.plan import Plan, share_out
from shockwatch.sharding.quotient import ShardedQuotient

__all__ = ["Agreement", "Channel", "Exchange", "LostRankError", "Plan", "ShardedQuotient", "share_out"]
