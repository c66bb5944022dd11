//! An undo stack: what a verb did so far, and how to take it back in reverse order.

/// Steps that are taken back, last first, when this is dropped before [`Undo::commit`].
#[derive(Default)]
pub struct Undo<'a> {
    steps: Vec<Box<dyn FnOnce() + 'a>>,
}

impl<'a> Undo<'a> {
    /// Nothing to take back yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How to take back what was just done. A step cannot fail: it does what it can, and logs.
    pub fn push(&mut self, step: impl FnOnce() + 'a) {
        self.steps.push(Box::new(step));
    }

    /// All went well: nothing is taken back.
    pub fn commit(mut self) {
        self.steps.clear();
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        while let Some(step) = self.steps.pop() {
            step();
        }
    }
}

impl std::fmt::Debug for Undo<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Undo").field("steps", &self.steps.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn a_dropped_stack_runs_last_step_first() {
        let order = RefCell::new(Vec::new());
        let mut undo = Undo::new();
        undo.push(|| order.borrow_mut().push(1));
        undo.push(|| order.borrow_mut().push(2));
        drop(undo);
        assert_eq!(*order.borrow(), [2, 1]);
    }

    #[test]
    fn a_committed_stack_runs_nothing() {
        let ran = RefCell::new(false);
        let mut undo = Undo::new();
        undo.push(|| *ran.borrow_mut() = true);
        undo.commit();
        assert!(!*ran.borrow());
    }
}
