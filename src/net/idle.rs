//! Kept-alive connections of one worker to one backend: last in, first out, so that a low request rate
//! keeps few of them warm and lets the others go.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Unused for so long, a connection is closed by us: below the idle limits of Azure and of the address
/// translation on the way (azure-openai.md 8: four minutes, calls on dead connections hang for a minute).
const LONGEST_IDLE: Duration = Duration::from_secs(60);

/// So old, a connection gets no further request, however busy it is: a name may have moved meanwhile (a private
/// endpoint, a failover by DNS), and only a new connection finds out. With TLS sessions resumed, this costs nothing
/// that could be measured.
pub(crate) const LONGEST_LIFE: Duration = Duration::from_secs(300);

/// How often idle connections are looked at, while there are any.
const SWEEP: Duration = Duration::from_secs(15);

/// More are not kept: each holds a socket and some 10 KB.
const MOST: usize = 256;

/// Something kept that may have died meanwhile.
pub(crate) trait Alive {
    /// Drives it a little, without waiting; `false` once it cannot be used again. It costs no system call
    /// unless the reactor has already heard from the socket.
    fn poll_alive(&mut self, cx: &mut Context<'_>) -> bool;
}

/// The connections nobody uses now.
#[derive(Debug)]
pub(crate) struct Idle<T> {
    kept: RefCell<Vec<(Instant, T)>>,
    swept: Cell<bool>,
}

impl<T> Default for Idle<T> {
    fn default() -> Self {
        Self { kept: RefCell::default(), swept: Cell::new(false) }
    }
}

impl<T: Alive + 'static> Idle<T> {
    /// The most recently used one that is still alive.
    pub(crate) async fn take(&self) -> Option<T> {
        poll_fn(|cx| {
            let mut kept = self.kept.borrow_mut();
            while let Some((since, mut connection)) = kept.pop() {
                if since.elapsed() < LONGEST_IDLE && connection.poll_alive(cx) {
                    return Poll::Ready(Some(connection));
                }
            }
            Poll::Ready(None)
        })
        .await
    }

    /// Keeps one for later; the oldest goes when there are too many.
    pub(crate) fn put(self: &Rc<Self>, connection: T) {
        let mut kept = self.kept.borrow_mut();
        if kept.len() == MOST {
            kept.remove(0);
        }
        kept.push((Instant::now(), connection));
        if !self.swept.replace(true) {
            tokio::task::spawn_local(Self::sweep(Rc::downgrade(self)));
        }
    }

    /// Closes what is too old or dead, as long as there is something to watch: an idle balancer has no timer.
    async fn sweep(this: std::rc::Weak<Self>) {
        loop {
            sleep(SWEEP).await;
            let Some(this) = this.upgrade() else { return };
            let mut cx = Context::from_waker(Waker::noop());
            let mut kept = this.kept.borrow_mut();
            kept.retain_mut(|(since, connection)| {
                since.elapsed() < LONGEST_IDLE && connection.poll_alive(&mut cx)
            });
            if kept.is_empty() {
                this.swept.set(false);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::task::Context;
    use std::time::Duration;

    use tokio::time::sleep;

    use super::{Alive, Idle, MOST};

    struct Fake(u32, Rc<Cell<bool>>);

    impl Alive for Fake {
        fn poll_alive(&mut self, _cx: &mut Context<'_>) -> bool {
            self.1.get()
        }
    }

    fn local<F: Future>(test: F) -> F::Output {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let options = tokio::runtime::LocalOptions::default();
        builder.enable_time().start_paused(true).build_local(options).unwrap().block_on(test)
    }

    #[test]
    fn the_last_one_used_is_used_next_and_a_dead_one_never() {
        local(async {
            let idle = Rc::new(Idle::default());
            let (alive, dying) = (Rc::new(Cell::new(true)), Rc::new(Cell::new(true)));
            idle.put(Fake(1, Rc::clone(&alive)));
            idle.put(Fake(2, alive));
            idle.put(Fake(3, Rc::clone(&dying)));
            dying.set(false);
            assert_eq!(idle.take().await.map(|fake| fake.0), Some(2));
            assert_eq!(idle.take().await.map(|fake| fake.0), Some(1));
            assert!(idle.take().await.is_none());
        });
    }

    #[test]
    fn an_old_one_is_closed_without_being_asked_for() {
        local(async {
            let idle = Rc::new(Idle::default());
            let alive = Rc::new(Cell::new(true));
            idle.put(Fake(1, Rc::clone(&alive)));
            sleep(Duration::from_secs(76)).await;
            assert_eq!(Rc::strong_count(&alive), 1);
            // And the watch begins anew with the next one.
            idle.put(Fake(2, Rc::clone(&alive)));
            sleep(Duration::from_secs(76)).await;
            assert_eq!(Rc::strong_count(&alive), 1);
        });
    }

    #[test]
    fn no_more_than_the_bound_are_kept() {
        local(async {
            let idle = Rc::new(Idle::default());
            let alive = Rc::new(Cell::new(true));
            for n in 0..300 {
                idle.put(Fake(n, Rc::clone(&alive)));
            }
            assert_eq!(Rc::strong_count(&alive), MOST + 1);
        });
    }
}
