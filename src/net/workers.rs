//! Worker threads and the acceptor that feeds them.
//!
//! One thread accepts and hands each socket to the worker with the fewest connections: `SO_REUSEPORT` can put
//! all of few connections on one thread (seen), and one acceptor drains cleanly. It costs one wake-up per
//! connection. What each worker does with requests is its `Handler`, made on its own thread.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::parting::refuse;
use super::server::{Handler, Peer, ServerLimits, accept, serve_connection};
use super::stop::{LocalStop, Stop};

/// More threads than this only spread upstream connections thin: one carries 20,000 small requests a second.
const MOST_BY_DEFAULT: usize = 4;

/// The worker threads.
#[derive(Debug)]
pub struct Workers<H> {
    workers: Vec<Worker<H>>,
    threads: Vec<JoinHandle<()>>,
    limits: ServerLimits,
    tls: bool,
}

/// Accepts for the workers.
#[derive(Debug)]
pub struct Acceptor<H> {
    workers: Vec<Worker<H>>,
    limits: ServerLimits,
    /// Whoever is refused would not understand plain words.
    tls: bool,
    /// How many came when the bound was reached.
    refused: Arc<AtomicU64>,
    /// When it was last said that the connections' bound is reached.
    told: Cell<Option<Instant>>,
}

/// A way to one worker.
struct Worker<H> {
    orders: mpsc::UnboundedSender<Order<H>>,
    connections: Arc<AtomicUsize>,
}

impl<H> Clone for Worker<H> {
    fn clone(&self) -> Self {
        Self { orders: self.orders.clone(), connections: Arc::clone(&self.connections) }
    }
}

impl<H> fmt::Debug for Worker<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("connections", &self.connections).finish_non_exhaustive()
    }
}

fn connections<H>(workers: &[Worker<H>]) -> usize {
    workers.iter().map(|worker| worker.connections.load(Ordering::Relaxed)).sum()
}

enum Order<H> {
    Serve(std::net::TcpStream, SocketAddr),
    Stop(Stop),
    Do(Errand<H>),
}

/// Something to be done with a worker's handler.
type Errand<H> = Box<dyn FnOnce(&Rc<H>) + Send>;

impl<H: Handler> Workers<H> {
    /// Starts the threads; `None` is one per core, at most four. Connections are encrypted by `tls`. `make` runs on
    /// each thread.
    ///
    /// # Errors
    /// The operating system refuses a thread or a runtime.
    pub fn start(
        count: Option<NonZeroUsize>,
        limits: ServerLimits,
        tls: Option<Arc<ServerConfig>>,
        make: impl Fn(usize) -> H + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let count = count.map_or_else(
            || std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MOST_BY_DEFAULT),
            NonZeroUsize::get,
        );
        let (workers, threads) = (0..count)
            .map(|index| {
                let (orders, receiver) = mpsc::unbounded_channel();
                let connections = Arc::new(AtomicUsize::new(0));
                let (make, counted, tls) = (make.clone(), Arc::clone(&connections), tls.clone());
                let (started, starting) = std::sync::mpsc::channel();
                let thread =
                    std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                        match Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
                        {
                            Ok(runtime) => {
                                let _heard = started.send(Ok(()));
                                run(&runtime, receiver, &counted, (limits, tls), move || make(index));
                            }
                            Err(error) => {
                                let _heard = started.send(Err(error));
                            }
                        }
                    })?;
                starting.recv().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?;
                Ok((Worker { orders, connections }, thread))
            })
            .collect::<io::Result<Vec<_>>>()?
            .into_iter()
            .unzip();
        Ok(Self { workers, threads, limits, tls: tls.is_some() })
    }

    /// How many threads.
    #[must_use]
    pub fn count(&self) -> usize {
        self.workers.len()
    }

    /// Open connections of all threads.
    #[must_use]
    pub fn connections(&self) -> usize {
        connections(&self.workers)
    }

    /// Runs `order` on every worker with its handler, soon.
    pub fn each(&self, order: impl FnOnce(&Rc<H>) + Clone + Send + 'static) {
        each(&self.workers, &order);
    }

    /// What does the same as `each`, kept elsewhere.
    pub fn teller<O: FnOnce(&Rc<H>) + Clone + Send + 'static>(&self) -> impl Fn(O) + use<H, O> {
        let workers = self.workers.clone();
        move |order| each(&workers, &order)
    }

    /// Tells every connection.
    pub fn stop(&self, state: Stop) {
        for worker in &self.workers {
            let _gone = worker.orders.send(Order::Stop(state));
        }
    }

    /// Whether every thread has ended: after `stop(Drain)`, when the last connection has.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Whether a thread has ended although nobody asked it to: a defect that must not go unseen.
    #[must_use]
    pub fn any_ended(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// What accepts for them; `refused` counts those beyond the bound.
    #[must_use]
    pub fn acceptor(&self, refused: Arc<AtomicU64>) -> Acceptor<H> {
        let workers = self.workers.clone();
        Acceptor { workers, limits: self.limits, tls: self.tls, refused, told: Cell::new(None) }
    }
}

impl<H: Handler> Acceptor<H> {
    /// Accepts until `stop` leaves `Run`, hands over who is already there, and closes the listener.
    pub async fn accept(&self, listener: TcpListener, mut stop: watch::Receiver<Stop>) {
        accept(listener, &mut stop, |stream, address| self.hand_over(stream, address)).await;
    }

    fn hand_over(&self, stream: TcpStream, address: SocketAddr) {
        let Some(worker) =
            self.workers.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed))
        else {
            return;
        };
        if connections(&self.workers) >= self.limits.connections.get() {
            self.refused.fetch_add(1, Ordering::Relaxed);
            self.tell_full();
            if !self.tls {
                refuse(stream);
            }
            return;
        }
        if let Ok(stream) = stream.into_std() {
            worker.connections.fetch_add(1, Ordering::Relaxed);
            let _gone = worker.orders.send(Order::Serve(stream, address));
        }
    }
}

fn each<H: Handler>(workers: &[Worker<H>], order: &(impl FnOnce(&Rc<H>) + Clone + Send + 'static)) {
    for worker in workers {
        // A worker that is gone has nothing to be told.
        let _gone = worker.orders.send(Order::Do(Box::new(order.clone())));
    }
}

impl<H> Acceptor<H> {
    /// A refused caller's side does not always say why: with TLS the connection just closes.
    fn tell_full(&self) {
        const AGAIN: Duration = Duration::from_secs(60);
        if self.told.get().is_none_or(|told| told.elapsed() >= AGAIN) {
            self.told.set(Some(Instant::now()));
            let most = self.limits.connections;
            tracing::warn!(most, "connections refused: as many are open as `limits.connections` allows");
        }
    }
}

/// One worker's life.
fn run<H: Handler>(
    runtime: &LocalRuntime,
    mut orders: mpsc::UnboundedReceiver<Order<H>>,
    connections: &Arc<AtomicUsize>,
    (limits, tls): (ServerLimits, Option<Arc<ServerConfig>>),
    make: impl FnOnce() -> H,
) {
    runtime.block_on(async {
        let handler = Rc::new(make());
        let stop = LocalStop::default();
        loop {
            let order = tokio::select! {
                order = orders.recv() => order,
                () = stop.emptied(), if stop.state() != Stop::Run => return,
            };
            match order {
                Some(Order::Serve(stream, address)) => {
                    let count = Counted(Arc::clone(connections));
                    if let Ok(stream) = TcpStream::from_std(stream) {
                        let (handler, ear, tls) = (Rc::clone(&handler), stop.ear(), tls.clone());
                        tokio::task::spawn_local(async move {
                            let _count = count;
                            serve_connection(stream, Peer { address }, handler, limits, tls, ear).await;
                        });
                    }
                }
                Some(Order::Do(order)) => order(&handler),
                Some(Order::Stop(state)) => stop.tell(state),
                None => return,
            }
        }
    });
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
