"""Fused kernels as plain arithmetic: attention as matrix products, weight norm as a quotient.

The fused kernels have no second derivative, and hide the axes that the symmetry analysis reads. The
result lies in memory as (batch, time, head, feature): a model may view it so without a copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool, scale: float | None
) -> Tensor:
    """``softmax(Q K^T scale + mask) V`` with shapes (batch, head, time, feature); heads of K and V are
    repeated where the query has a multiple of them."""
    groups = query.shape[-3] // key.shape[-3] if query.dim() >= 3 else 1
    if groups > 1:
        key, value = (
            t.unsqueeze(-3).expand(*t.shape[:-2], groups, *t.shape[-2:]).flatten(-4, -3) for t in (key, value)
        )
    factor = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = torch.matmul(query, key.transpose(-2, -1)) * factor
    if is_causal:
        keep = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(keep.logical_not(), -math.inf)
    if mask is not None:
        scores = (
            scores.masked_fill(mask.logical_not(), -math.inf) if mask.dtype == torch.bool else scores + mask
        )
    mixed = torch.matmul(torch.softmax(scores, dim=-1), value)
    return mixed.transpose(1, 2).contiguous().transpose(1, 2) if mixed.dim() == 4 else mixed


def _statistics(query: Tensor) -> Tensor:
    return query.new_zeros(query.shape[:-1])


def _flash_cpu(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    return attention(query, key, value, attn_mask, is_causal, scale), _statistics(query)


def _with_seeds(query: Tensor, key: Tensor, out: Tensor) -> tuple[Any, ...]:
    """The outputs of a CUDA flash kernel; all but the first serve its backward pass, which is not used."""
    seed = query.new_zeros((), dtype=torch.int64)
    return (
        out,
        _statistics(query),
        None,
        None,
        query.shape[-2],
        key.shape[-2],
        seed,
        seed,
        query.new_zeros(()),
    )


def _flash_cuda(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    return _with_seeds(query, key, attention(query, key, value, None, is_causal, scale))


def _efficient_cuda(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_bias: Tensor | None,
    compute_log_sumexp: bool,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    seed = query.new_zeros((), dtype=torch.int64)
    return attention(query, key, value, attn_bias, is_causal, scale), _statistics(query), seed, seed


def _cudnn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_bias: Tensor | None,
    compute_log_sumexp: bool,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    return _with_seeds(query, key, attention(query, key, value, attn_bias, is_causal, scale))


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    """``g v / |v|`` over all dimensions but one; the fused kernel's second derivative is wrong."""
    rest = [d for d in range(v.dim()) if d != dim]
    norms = v.square().sum(rest, keepdim=True).sqrt()
    return v * (g / norms), norms


def decomposition_table() -> dict[Any, Callable[..., Any]]:
    """The fused operators this build of torch has, each with its plain form."""
    plain: dict[str, Callable[..., Any]] = {
        "_scaled_dot_product_flash_attention_for_cpu": _flash_cpu,
        "_scaled_dot_product_flash_attention": _flash_cuda,
        "_scaled_dot_product_efficient_attention": _efficient_cuda,
        "_scaled_dot_product_cudnn_attention": _cudnn,
        "_weight_norm_interface": _weight_norm,
    }
    packets = {name: getattr(torch.ops.aten, name, None) for name in plain}
    return {packet.default: plain[name] for name, packet in packets.items() if packet is not None}
