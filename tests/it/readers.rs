//! A thousand callers that read nothing: the balancer's memory stays flat, and their backend is slowed down.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use super::fixture::backend::{EVENTS, chunk};
use super::fixture::{CHAT, STREAMED, within};
use super::process::Running;

const READERS: usize = 1_000;

/// What a backend would send to each.
const ENDLESS: usize = 32 << 20;

/// What may be on its way to one reader, in bytes: mostly the kernel's buffers of four socket ends.
const ON_ITS_WAY: usize = 8 << 20;

/// What the balancer itself may hold for one reader, in KiB.
const HELD: usize = 220;

/// Answers every request with a stream that goes on as long as there is room for it.
async fn serve(listener: TcpListener, sent: Arc<AtomicUsize>) {
    let event = chunk(&format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n",
        "x".repeat(4_000)
    ));
    let event: Arc<str> = event.into();
    loop {
        let (mut socket, _) = listener.accept().await.unwrap();
        let (sent, event) = (Arc::clone(&sent), Arc::clone(&event));
        tokio::spawn(async move {
            let mut asked = Vec::new();
            while !asked.ends_with(STREAMED.as_bytes()) {
                if socket.read_buf(&mut asked).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let mut own = 0;
            if socket.write_all(EVENTS.as_bytes()).await.is_err() {
                return;
            }
            while own < ENDLESS && socket.write_all(event.as_bytes()).await.is_ok() {
                own += event.len();
                sent.fetch_add(event.len(), Ordering::Relaxed);
            }
        });
    }
}

/// A caller that has read the head and the beginning, and no more.
async fn reader(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut socket = within("a connection", socket.connect(address)).await.unwrap();
    let mut asked = String::new();
    write!(asked, "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", STREAMED.len())
        .unwrap();
    socket.write_all((asked + STREAMED).as_bytes()).await.unwrap();
    let mut began = [0; 12];
    within("a head", socket.read_exact(&mut began)).await.unwrap();
    assert_eq!(&began, b"HTTP/1.1 200");
    socket
}

#[tokio::test]
async fn memory_stays_flat_with_a_thousand_slow_readers_and_their_backend_is_slowed_down() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(8_192).unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let listener = socket.listen(1024).unwrap();
    let backend = listener.local_addr().unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    tokio::spawn(serve(listener, Arc::clone(&sent)));
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"off\"\n[log]\nlevel = \"info,sidestep::access=off\"\n\
         [[backends]]\nurl = \"http://{backend}\"\napi_key = \"k\"\n"
    );
    std::fs::write(folder.path().join("sidestep.toml"), text).unwrap();
    let running = Running::start(folder.path(), &[], &[]);
    let address = running.addresses().0;
    drop(reader(address).await);
    let before = running.memory();
    let mut readers = Vec::new();
    for _ in 0..READERS {
        readers.push(reader(address).await);
    }
    // Until nothing moves any more.
    let still = async {
        loop {
            let last = sent.load(Ordering::Relaxed);
            sleep(Duration::from_millis(500)).await;
            if sent.load(Ordering::Relaxed) == last {
                return last;
            }
        }
    };
    let total = timeout(Duration::from_secs(60), still).await.expect("all is taken although nobody reads");
    let (each, held) = (total / READERS, running.memory().saturating_sub(before));
    assert!(each < ON_ITS_WAY, "{each} bytes for each reader that reads nothing");
    assert!(held < READERS * HELD, "{held} KiB for {READERS} readers");
    // Others are served meanwhile.
    drop(reader(address).await);
}
