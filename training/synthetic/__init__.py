"""A procedural set of drawn faces, clearly synthetic: for the demo and for tests that need faces but no data.

A person is a set of traits (`Identity`), a picture its circumstances (`Scene`: pose, expression, light, background and
camera). The drawing projects the traits through a rotated head and aligns the result by its five landmarks, as a
photograph would be. No pixel comes from a photograph, and what a network reaches here says nothing about real faces.
"""

from training.synthetic.drawing import draw_face
from training.synthetic.identity import Identity, draw_identity
from training.synthetic.scene import Scene, draw_scene
from training.synthetic.writing import draw_person, write_synthetic

__all__ = ["Identity", "Scene", "draw_face", "draw_identity", "draw_person", "draw_scene", "write_synthetic"]
