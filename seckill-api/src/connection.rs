//! One connection: how long it may wait for a request, and how long its client may take to read an answer.
//!
//! hyper has one time limit for a request's head, which also ends an idle connection. Here they are two: a client that has
//! begun to send a head must finish it within seconds, but a proxy may keep an idle connection for an hour.
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Time limits of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// From the first byte of a request to the end of its head. For the first request: from the connection.
    pub head: Duration,
    /// Between an answer and the next request.
    pub idle: Duration,
    /// From the first byte of an answer that the client's buffers do not take to its last byte.
    pub write: Duration,
}

/// What a connection does now, shared by its parts and the table of connections.
pub struct Activity {
    /// The origin of `waiting_since`, the same for all connections of a listener.
    origin: Instant,
    /// When the connection began to wait for the head of a request, in milliseconds; 0 while a request is in progress.
    waiting_since: AtomicU64,
    bytes_read: AtomicU64,
}

impl Activity {
    pub fn new(origin: Instant) -> Self {
        Activity {
            origin,
            waiting_since: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
        }
    }

    /// How long the connection has waited for the head of a request. None while a request is in progress.
    pub fn waiting(&self) -> Option<Duration> {
        match self.waiting_since.load(Ordering::Relaxed) {
            0 => None,
            since => Some(self.origin.elapsed().saturating_sub(Duration::from_millis(since))),
        }
    }

    fn begin_waiting(&self) {
        let now = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.waiting_since.store(now.max(1), Ordering::Relaxed);
    }

    fn end_waiting(&self) {
        self.waiting_since.store(0, Ordering::Relaxed);
    }

    fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }
}

/// The timer that hyper starts when it begins to wait for the head of a request, and drops when it has the head. It
/// replaces the deadline of hyper by those of this module.
pub struct HeadTimer {
    activity: Arc<Activity>,
    deadlines: Deadlines,
    had_request: AtomicBool,
}

impl HeadTimer {
    pub fn new(activity: Arc<Activity>, deadlines: Deadlines) -> Self {
        HeadTimer {
            activity,
            deadlines,
            had_request: AtomicBool::new(false),
        }
    }

    fn start(&self) -> Pin<Box<dyn Sleep>> {
        let is_first = !self.had_request.swap(true, Ordering::Relaxed);
        let limit = if is_first {
            self.deadlines.head
        } else {
            self.deadlines.idle
        };
        self.activity.begin_waiting();
        Box::pin(HeadWait {
            began: is_first,
            bytes_before: self.activity.bytes_read(),
            head_limit: self.deadlines.head,
            sleep: Box::pin(tokio::time::sleep(limit)),
            activity: self.activity.clone(),
        })
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        self.start()
    }

    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Sleep>> {
        self.start()
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, _: Instant) {
        *sleep = self.start();
        self.activity.begin_waiting(); // the old wait has ended only now
    }
}

/// The wait for the head of one request.
struct HeadWait {
    activity: Arc<Activity>,
    /// Whether the limit of a head is in force.
    began: bool,
    bytes_before: u64,
    head_limit: Duration,
    sleep: Pin<Box<tokio::time::Sleep>>,
}

impl Sleep for HeadWait {}

impl Future for HeadWait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if !self.began && self.activity.bytes_read() > self.bytes_before {
            self.began = true;
            let deadline = tokio::time::Instant::now() + self.head_limit;
            self.sleep.as_mut().reset(deadline);
        }
        self.sleep.as_mut().poll(context)
    }
}

impl Drop for HeadWait {
    fn drop(&mut self) {
        self.activity.end_waiting();
    }
}

/// The socket. It counts what the client sends, and fails if the client does not read an answer in time.
pub struct TimedStream {
    stream: TcpStream,
    activity: Arc<Activity>,
    write_limit: Duration,
    /// Runs from the first byte that the socket does not take until everything is written.
    write_deadline: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl TimedStream {
    pub fn new(stream: TcpStream, activity: Arc<Activity>, deadlines: Deadlines) -> Self {
        TimedStream {
            stream,
            activity,
            write_limit: deadlines.write,
            write_deadline: None,
        }
    }

    /// The result of a write, unless the client has not read for too long.
    fn limited<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            return written;
        }
        let limit = self.write_limit;
        let deadline = self
            .write_deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(deadline.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client did not read the answer in time",
        )))
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let bytes = buffer.filled().len() - before;
        if bytes > 0 {
            self.activity.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.limited(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.limited(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes when it has written everything.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write_deadline = None;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
