//! What namespace mode adds to a spec that leaves things open.
