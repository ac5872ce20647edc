"""Queries and responses from one device to another, all of them in one transfer.

In: a list of 1-D tensors of token ids, of any lengths. Out: the same list elsewhere. Between a GPU and the
CPU every transfer is a wait, and a batch of texts one by one is hundreds of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def moved(rows: Sequence[torch.Tensor], device: torch.device | str) -> list[torch.Tensor]:
    """1-D ``rows`` as ``int64`` on ``device``; those that come from one device travel together."""
    if len({row.device for row in rows}) > 1:
        return [row.to(device, torch.long) for row in rows]
    return list(torch.cat(list(rows)).to(device, torch.long).split([len(row) for row in rows]))
