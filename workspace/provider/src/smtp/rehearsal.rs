//! A conversation with a server that has said all that it will say before it hears anything: no network, no waiting.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use posthaste_event::{ErrorKind, Failure, Millis, payload::Payload};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    NAME,
    mail::Mail,
    session::{Session, Stopped},
};
use crate::{Message, Receipt};

/// What came of a conversation.
#[derive(Debug)]
pub struct Heard {
    /// All that the server got to hear.
    pub said: Vec<u8>,
    /// Whether it may have heard the whole message.
    pub whole: bool,
    /// What it comes to.
    pub outcome: Result<Receipt, Failure>,
}

/// Has a conversation about `message`.
pub(crate) async fn rehearse(
    message: &Message,
    replies: &[u8],
    login: Option<(&str, &str)>,
    now: Millis,
) -> Heard {
    let said = Arc::new(Mutex::new(Vec::new()));
    let wire = Wire {
        replies: replies.to_vec(),
        read: 0,
        said: Arc::clone(&said),
    };
    let mut whole = false;
    let outcome = talk(message, wire, login, now, &mut whole).await;
    let said = std::mem::take(&mut *said.lock().unwrap_or_else(PoisonError::into_inner));
    Heard {
        said,
        whole,
        outcome: outcome
            .map_err(|stopped| Failure::new(stopped.kind, NAME, Some(stopped.code), &stopped.message)),
    }
}

async fn talk(
    message: &Message,
    wire: Wire,
    login: Option<(&str, &str)>,
    now: Millis,
    whole: &mut bool,
) -> Result<Receipt, Stopped> {
    let unfit = |problem: String| Stopped::new(ErrorKind::Permanent, "request", problem);
    let Payload::Email(email) = &message.payload else {
        return Err(unfit("the payload is not one of the channel email".to_owned()));
    };
    let mail = Mail::compose(email, message, None, now).map_err(unfit)?;
    let mut session = Session::greet(Box::new(wire), "localhost").await?;
    if let Some((user, password)) = login {
        session.log_in(user, password).await?;
    }
    session.hand_over(&mail).await?;
    *whole = true;
    let reply = session.finish().await?;
    Ok(Receipt {
        message_id: reply.queue_id(),
    })
}

/// Keeps what is written, and gives out what was given.
struct Wire {
    replies: Vec<u8>,
    read: usize,
    said: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.replies.get(self.read..).unwrap_or_default();
        let count = left.len().min(into.remaining());
        into.put_slice(left.get(..count).unwrap_or_default());
        self.read += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
