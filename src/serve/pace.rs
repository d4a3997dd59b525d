//! How slowly bytes may move: a peer has some time to stand still, and gets more of it back with what it sends or takes.

use super::access::Patient;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep, timeout};

/// Bytes that give a second back: in the long run nobody may be slower than this a second.
const SLOWEST: f64 = 1024.0;

/// A peer's time to stand still.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    left: Duration,
    most: Duration,
}

/// The peer stood still for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooSlow;

impl Pace {
    pub(super) fn new(most: Duration) -> Self {
        Self { left: most, most }
    }

    /// So many bytes came or went.
    pub(super) fn moved(&mut self, bytes: usize) {
        let back = Duration::from_secs_f64(bytes as f64 / SLOWEST);
        self.left = (self.left + back).min(self.most);
    }

    /// So long nothing moved.
    fn stood(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }

    /// Waits for the peer as long as it has time left.
    pub(super) async fn within<T>(&mut self, wait: impl Future<Output = T>) -> Result<T, TooSlow> {
        let begun = Instant::now();
        let came = timeout(self.left, wait).await;
        self.stood(begun.elapsed());
        came.map_err(|_| TooSlow)
    }
}

/// A connection whose writes fail once its peer has not read for too long.
///
/// hyper itself waits for ever for a client to take its answer. A live stream has its own limit, which tells the client
/// why, and is left alone here.
pub(super) struct Paced<S> {
    inner: S,
    pace: Pace,
    /// Since when a write waits, and until when it may.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
    patient: Patient,
}

impl<S> Paced<S> {
    pub(super) fn new(inner: S, most: Duration, patient: Patient) -> Self {
        Self {
            inner,
            pace: Pace::new(most),
            waiting: None,
            patient,
        }
    }

    /// What a write came to: how long it waited counts.
    fn written(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(result) => {
                if let Some((since, _)) = self.waiting.take() {
                    self.pace.stood(since.elapsed());
                }
                if let Ok(bytes) = &result {
                    self.pace.moved(*bytes);
                }
                Poll::Ready(result)
            }
            Poll::Pending if self.patient.is_set() => Poll::Pending,
            Poll::Pending => {
                let left = self.pace.left;
                let begin = || (Instant::now(), Box::pin(sleep(left)));
                let (_, until) = self.waiting.get_or_insert_with(begin);
                let error = || io::Error::new(io::ErrorKind::TimedOut, "the peer does not read");
                until.as_mut().poll(cx).map(|()| Err(error()))
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.inner).poll_write(cx, buffer);
        this.written(cx, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.inner).poll_write_vectored(cx, buffers);
        this.written(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_used_up_and_given_back() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::new(10 * second);
        pace.stood(4 * second);
        pace.moved(2048);
        assert_eq!(pace.left, 8 * second);
        pace.moved(1 << 20);
        assert_eq!(pace.left, 10 * second);
        // A byte a second does not help.
        for _ in 0..11 {
            pace.stood(second);
            pace.moved(1);
        }
        assert!(pace.left < second / 50);
    }

    /// Takes so many bytes, then no more.
    struct Full(usize);

    impl AsyncWrite for Full {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
            if self.0 == 0 {
                return Poll::Pending;
            }
            let taken = self.0.min(buffer.len());
            self.0 -= taken;
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_write_that_nobody_reads_fails_unless_the_connection_is_patient() {
        let most = Duration::from_millis(50);
        let write = |paced: &mut Paced<Full>| {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            Pin::new(paced).poll_write(&mut cx, &[0; 64])
        };
        let mut paced = Paced::new(Full(64), most, Patient::default());
        assert!(matches!(write(&mut paced), Poll::Ready(Ok(64))));
        assert!(write(&mut paced).is_pending());
        sleep(2 * most).await;
        assert!(matches!(write(&mut paced), Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::TimedOut));

        let patient = Patient::default();
        patient.set();
        let mut paced = Paced::new(Full(0), most, patient);
        assert!(write(&mut paced).is_pending());
        sleep(2 * most).await;
        assert!(write(&mut paced).is_pending());
    }
}
