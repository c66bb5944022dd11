//! The connections of one stream: the first, and after each restoration of the machine another.

use std::io;

use tokio::sync::{mpsc, watch};

use super::Connection;

/// Where the machine is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Machine {
    /// It is about to be saved.
    pub(super) suspending: bool,
    /// How often it was restored.
    pub(super) life: u64,
}

/// Where connections are handed in.
#[derive(Debug)]
pub(super) struct Slot {
    connections: mpsc::Sender<Connection>,
    awaited: bool,
}

impl Slot {
    /// Hands a connection in; one that is not awaited is closed.
    pub(super) fn give(&mut self, connection: Connection) {
        if std::mem::take(&mut self.awaited) {
            // The stream has ended: the connection is closed.
            let _ = self.connections.try_send(connection);
        }
    }

    /// Another connection will come, if the stream has not ended.
    pub(super) fn expect_again(&mut self) {
        self.awaited = !self.connections.is_closed();
    }
}

/// Where they come out.
#[derive(Debug)]
pub(super) struct Incoming {
    connections: mpsc::Receiver<Connection>,
    machine: watch::Receiver<Machine>,
    /// In which life the last one came.
    life: u64,
}

/// A slot that awaits its first connection.
pub(super) fn pair(machine: watch::Receiver<Machine>) -> (Slot, Incoming) {
    // One for each life; the stream may not have come to take that of the life before.
    let (sender, connections) = mpsc::channel(2);
    let life = machine.borrow().life;
    (Slot { connections: sender, awaited: true }, Incoming { connections, machine, life })
}

impl Incoming {
    /// The next connection; none when none can come any more.
    pub(super) async fn next(&mut self) -> Option<Connection> {
        let connection = self.connections.recv().await?;
        self.life = self.machine.borrow().life;
        Some(connection)
    }

    /// Whether the machine was restored since the last connection came.
    pub(super) fn was_cut(&self) -> bool {
        self.machine.borrow().life != self.life
    }

    /// Waits until it was.
    pub(super) async fn cut(&mut self) {
        let life = self.life;
        if self.machine.wait_for(|machine| machine.life != life).await.is_err() {
            // The process is forgotten: there will be no other life.
            std::future::pending::<io::Error>().await;
        }
    }

    /// The life in which the last one came.
    pub(super) fn life(&self) -> Life {
        Life { machine: self.machine.clone(), number: self.life }
    }
}

/// One life of the machine, watched by whoever uses a connection that ends with it.
pub(super) struct Life {
    machine: watch::Receiver<Machine>,
    number: u64,
}

impl Life {
    /// Whether the machine is about to be saved. What changes after this is heard of by
    /// [`Self::changed`].
    pub(super) fn is_suspending(&mut self) -> bool {
        self.machine.borrow_and_update().suspending
    }

    /// Whether the machine was restored since.
    pub(super) fn is_over(&self) -> bool {
        self.machine.borrow().life != self.number
    }

    /// Waits for the machine to become another. False when nothing more will come of it: the process
    /// is forgotten.
    pub(super) async fn changed(&mut self) -> bool {
        self.machine.changed().await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pump of a terminal may begin with a connection when the next life has come.
    #[tokio::test]
    async fn a_life_is_over_however_late_and_often_it_is_asked_about() {
        let machine = watch::Sender::new(Machine::default());
        let (mut slot, mut incoming) = pair(machine.subscribe());
        slot.give(Box::new(tokio::io::duplex(1).0));
        assert!(incoming.next().await.is_some());
        let mut life = incoming.life();
        assert!(!life.is_over() && !life.is_suspending());
        machine.send_modify(|machine| machine.life += 1);
        for _ in 0..2 {
            assert!(!life.is_suspending());
            assert!(life.is_over() && incoming.was_cut());
        }
        drop(machine);
        assert!(!life.changed().await);
    }
}
