//! Virtio devices over guest memory.
