//! How the connections of one thread learn that they are to end.
//!
//! A flag in a cell and the wakers of the connections' tasks: looking at it costs a load, where a
//! `tokio::sync::watch` would be polled, with its lock, at every wake-up of every connection.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// What connections are told.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Stop {
    /// Go on.
    #[default]
    Run,
    /// Finish what has begun, take nothing new.
    Drain,
    /// Close at once.
    Abort,
}

/// One thread's word to all its connections.
#[derive(Clone, Debug, Default)]
pub struct LocalStop(Rc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Cell<Stop>,
    ears: RefCell<Ears>,
    emptied: RefCell<Option<Waker>>,
}

/// Slots for wakers; those of gone ears are used again.
#[derive(Debug, Default)]
struct Ears {
    slots: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Ears {
    fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn is_empty(&self) -> bool {
        self.count() == 0
    }
}

/// One connection's ear. Dropped with the connection, which is what `LocalStop::emptied` waits for.
#[derive(Debug)]
pub struct Ear {
    shared: Rc<Shared>,
    slot: usize,
}

impl LocalStop {
    /// Tells all connections; never goes back to an earlier state.
    pub fn tell(&self, state: Stop) {
        if state <= self.0.state.get() {
            return;
        }
        self.0.state.set(state);
        let wakers: Vec<Waker> = self.0.ears.borrow().slots.iter().flatten().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// What was last told.
    #[must_use]
    pub fn state(&self) -> Stop {
        self.0.state.get()
    }

    /// How many connections there are.
    #[must_use]
    pub fn ears(&self) -> usize {
        self.0.ears.borrow().count()
    }

    /// An ear for one more connection.
    #[must_use]
    pub fn ear(&self) -> Ear {
        let mut ears = self.0.ears.borrow_mut();
        let slot = ears.free.pop().unwrap_or_else(|| {
            ears.slots.push(None);
            ears.slots.len() - 1
        });
        Ear { shared: Rc::clone(&self.0), slot }
    }

    /// Resolves once no connection is left.
    pub async fn emptied(&self) {
        poll_fn(|cx| {
            if self.0.ears.borrow().is_empty() {
                return Poll::Ready(());
            }
            *self.0.emptied.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Ear {
    /// The state now; the task of `cx` is woken when it changes.
    pub fn listen(&self, cx: &Context<'_>) -> Stop {
        let mut ears = self.shared.ears.borrow_mut();
        if let Some(slot) = ears.slots.get_mut(self.slot)
            && !slot.as_ref().is_some_and(|known| known.will_wake(cx.waker()))
        {
            *slot = Some(cx.waker().clone());
        }
        self.shared.state.get()
    }

    /// The state now, at the cost of a load.
    #[must_use]
    pub fn state(&self) -> Stop {
        self.shared.state.get()
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let mut ears = self.shared.ears.borrow_mut();
        if let Some(slot) = ears.slots.get_mut(self.slot) {
            *slot = None;
        }
        ears.free.push(self.slot);
        if ears.is_empty()
            && let Some(waker) = self.shared.emptied.borrow_mut().take()
        {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LocalStop, Stop};

    #[tokio::test]
    async fn a_state_never_goes_back() {
        let stop = LocalStop::default();
        stop.tell(Stop::Abort);
        stop.tell(Stop::Drain);
        assert_eq!(stop.state(), Stop::Abort);
    }

    #[tokio::test]
    async fn emptied_resolves_when_the_last_ear_is_gone() {
        let stop = LocalStop::default();
        let (first, second) = (stop.ear(), stop.ear());
        let mut emptied = std::pin::pin!(stop.emptied());
        let waiting =
            std::future::poll_fn(|cx| std::task::Poll::Ready(emptied.as_mut().poll(cx).is_pending()));
        assert!(waiting.await);
        drop(first);
        drop(second);
        emptied.await;
    }
}
