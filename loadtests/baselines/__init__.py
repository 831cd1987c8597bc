"""What Holdfast is compared with: the same two endpoints as plain SQL behind FastAPI, in three ways, each kept fair."""
