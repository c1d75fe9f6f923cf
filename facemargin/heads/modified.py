"""Modified softmax: class weights on the unit sphere, free features, no bias."""

from .base import Head


class ModifiedSoftmax(Head):
    """z_j = ‖x‖ cosθ_j; no margin. The decision boundary between two classes is the plane halfway between them.

    Args: those of `Head`.

    Source:
        Liu et al., SphereFace, arXiv 1704.08063 §3.1.

    >>> from facemargin.heads import make_head
    >>> head = make_head("modified", embedding_dim=4, num_classes=3)
    >>> bool((head.logits(3 * torch.eye(4)).abs() <= 3).all())
    True
    """

    name = "modified"
    unit_weights = True
