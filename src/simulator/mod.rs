//! A faithful fake Azure OpenAI: several resources, each on a port of its own, with quotas, latencies and faults.
//!
//! It serves `sidestep demo` and `sidestep simulate`, every test with sockets, and the benches. It shares no code
//! with the balancer, not even the server side of HTTP, so that a mistake there cannot hide here. It does not do
//! TLS. Images and sounds have the form of real ones and no content (quotas do not count them). Files, vector stores, batches, assistants, threads and
//! conversations are kept and can be referred to, but nothing happens to them. A WebSocket (realtime, responses)
//! is an echo of bytes after its 101, without the handshake's check sum.
//!
//! Each answer tells who gave it: `x-ms-region` and (chat) `system_fingerprint` are the resource's name. A response
//! that was stored can be read again and continued at its own resource only; `encrypted_content` of reasoning items
//! is accepted only where it reads `gAAAA-<resource>`. `x-ratelimit-limit-*` tells the limit of one window, so that
//! `remaining` is a part of it whatever the window's length. In HTTP/2 a severed connection is a reset stream.
//!
//! # The control door
//! Tests in other languages control a resource over its own port, without a credential:
//!
//! | request | does |
//! |---|---|
//! | `POST /control/fault` `{"fault":{"kind":"throttle","retry_after":"7"},"times":1}` | adds a [`FaultRule`]; kinds are those of [`Fault`] in `snake_case` |
//! | `POST /control/occupy` `{"seconds":5}` or `{"seconds":5,"tokens_per_second":100}` | somebody else uses all, or so much |
//! | `POST /control/clear` | ends faults and use by others |
//! | `POST /control/refill` | begins all quota windows anew |
//! | `GET /control/counters` | [`Counters`] as JSON |
//! | `GET /control/requests` | the last requests: `[{"method","uri","headers":[[name,value]],"body"}]` |

mod answer;
mod body;
mod connection;
mod control;
mod errors;
mod fault;
mod head;
mod media;
mod model;
mod objects;
mod quota;
mod reply;
mod request;
mod resource;
mod settings;

pub use control::{Counters, RecordedRequest, ResourceHandle, SimulatorHandle};
pub use fault::{Fault, FaultRule};
pub use settings::{
    AcceptedKey, Anchor, ApiForm, HeaderSettings, LatencySettings, ModelKind, Occupation, QuotaSettings,
    ResourceSettings, SimulatorSettings, demo_settings,
};

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::oneshot;

use resource::{Clock, Resource};

/// Simulated resources at work on a thread of their own. Dropped, they stop.
#[derive(Debug)]
pub struct Simulator {
    handle: SimulatorHandle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Simulator {
    /// Listens at every resource's address and begins to answer.
    ///
    /// # Errors
    /// An address that cannot be had, settings that contradict themselves (`InvalidInput`), no thread.
    pub fn start(settings: SimulatorSettings) -> io::Result<Self> {
        let SimulatorSettings { seed, resources } =
            settings.validated().map_err(|problem| io::Error::new(io::ErrorKind::InvalidInput, problem))?;
        let clock = real_time();
        let mut handles = Vec::with_capacity(resources.len());
        let mut listeners = Vec::with_capacity(resources.len());
        for settings in resources {
            let listener = connection::bind(settings.listen)?;
            let address = listener.local_addr()?;
            let resource = Arc::new(Resource::new(settings, seed, clock));
            handles.push(ResourceHandle { resource: Arc::clone(&resource), address });
            listeners.push((resource, listener, address));
        }
        let (stop, stopped) = oneshot::channel();
        let (ready, began) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("simulator".to_owned()).spawn(move || {
            match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
                Ok(runtime) => {
                    let _ = ready.send(Ok(()));
                    run(&runtime, listeners, stopped);
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        })?;
        began.recv().map_err(|_| io::Error::other("the simulator's thread ended at once"))??;
        let handle = SimulatorHandle { resources: handles.into() };
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Control over it, for as many threads as want it.
    pub fn handle(&self) -> SimulatorHandle {
        self.handle.clone()
    }

    /// One resource by its name.
    ///
    /// # Panics
    /// If there is none of that name.
    pub fn resource(&self, name: &str) -> &ResourceHandle {
        self.handle.resource(name)
    }

    /// Where each resource listens, as in the settings.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.handle.resources().iter().map(ResourceHandle::address).collect()
    }

    /// Ends it at once, connections included; returns when its thread is gone.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.end();
    }
}

type Listening = (Arc<Resource>, std::net::TcpListener, SocketAddr);

fn run(runtime: &LocalRuntime, listeners: Vec<Listening>, stopped: oneshot::Receiver<()>) {
    runtime.block_on(async move {
        for (resource, listener, address) in listeners {
            tokio::task::spawn_local(connection::listen(resource, listener, address));
        }
        // Its sender is never used: that it is gone is the signal.
        let _ = stopped.await;
    });
}

#[expect(
    clippy::disallowed_methods,
    reason = "the simulator keeps real time on its own thread, whatever clock the test around it has paused"
)]
fn real_time() -> Clock {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Clock { began: Instant::now(), unix, now: Instant::now }
}
