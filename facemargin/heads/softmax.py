"""Plain softmax cross-entropy: free features, free weights, bias."""

from .base import Head


class Softmax(Head):
    """z_j = ⟨W_j, x⟩ + b_j; no margin.

    Args: those of `Head`.

    >>> from facemargin.heads import make_head
    >>> head = make_head("softmax", embedding_dim=4, num_classes=3)
    >>> head.logits(torch.zeros(2, 4)).shape
    torch.Size([2, 3])
    """

    name = "softmax"
    has_bias = True
