//! The real media driver in this process, and streams of the real client over it.

use std::ffi::CString;
use std::path::Path;
use std::time::Duration;

use coracle_net::say;
use rusteron_client::{
    Aeron, AeronContext, AeronExclusivePublication, AeronFragmentClosureAssembler, AeronHeader,
    AeronOfferError, AeronPublication, AeronSubscription, Handlers,
};
use rusteron_media_driver::bindings::aeron_threading_mode_enum;
use rusteron_media_driver::testing::EmbeddedDriver;

/// How long the driver may take to add a stream.
const PATIENCE: Duration = Duration::from_secs(20);

/// An embedded C media driver and one C client of it.
pub struct Driver {
    // Dropped in this order: the client closes before its driver stops.
    client: Aeron,
    media: EmbeddedDriver,
}

/// A stream to one address.
pub enum Publication {
    /// With a session of its own.
    Exclusive(AeronExclusivePublication),
    /// One stream for all who publish the same in this driver.
    Shared(AeronPublication),
}

/// Streams from anybody at one address, messages put together from their fragments.
pub struct Subscription {
    inner: AeronSubscription,
    assembler: AeronFragmentClosureAssembler,
}

/// What became of a message that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// In the driver's hands.
    Taken,
    /// Not now: the receiver's window is closed, or the buffers rotate.
    Later,
    /// Nobody receives, or not any more.
    NotConnected,
}

impl Driver {
    /// Starts a driver whose files are in `directory` (made new, gone when it stops), on one
    /// thread, with timeouts fit for a test.
    ///
    /// # Errors
    /// In the driver's words.
    pub fn start(directory: &Path) -> Result<Self, String> {
        let path = directory
            .to_str()
            .ok_or("the directory's name is not text")?;
        let path = c_string(path)?;
        let second = 1_000_000_000;
        let media = EmbeddedDriver::launch_with(|context| {
            context.set_dir(&path)?;
            context.set_threading_mode(aeron_threading_mode_enum::AERON_THREADING_MODE_SHARED)?;
            context.set_shared_idle_strategy(c"backoff")?;
            context.set_term_buffer_sparse_file(true)?;
            context.set_term_buffer_length(1 << 20)?;
            context.set_ipc_term_buffer_length(1 << 20)?;
            context.set_image_liveness_timeout_ns(3 * second)?;
            context.set_publication_linger_timeout_ns(second)?;
            context.set_publication_connection_timeout_ns(3 * second)?;
            Ok(())
        })
        .map_err(|error| format!("the media driver does not start: {error:?}"))?;
        let context = AeronContext::new().map_err(|error| format!("{error:?}"))?;
        let describe = |error| format!("the Aeron client does not start: {error:?}");
        context.set_dir(&path).map_err(describe)?;
        context
            .set_error_handler(Some(|code: i32, text: &str| {
                say!("aeron error {code}: {text}")
            }))
            .map_err(describe)?;
        let client = Aeron::new(&context).map_err(describe)?;
        client.start().map_err(describe)?;
        Ok(Self { client, media })
    }

    /// Opens a stream to `channel`.
    ///
    /// # Errors
    /// In the driver's words.
    pub fn publish(&self, channel: &str, stream: i32) -> Result<Publication, String> {
        let adding = self
            .client
            .async_add_exclusive_publication(&c_string(channel)?, stream);
        let inner = adding
            .and_then(|adding| adding.poll_blocking(PATIENCE))
            .map_err(|error| format!("publication {channel} {stream}: {error:?}"))?;
        Ok(Publication::Exclusive(inner))
    }

    /// Opens a stream to `channel`, or joins those who have it open already.
    ///
    /// # Errors
    /// In the driver's words.
    pub fn publish_shared(&self, channel: &str, stream: i32) -> Result<Publication, String> {
        let adding = self
            .client
            .async_add_publication(&c_string(channel)?, stream);
        let inner = adding
            .and_then(|adding| adding.poll_blocking(PATIENCE))
            .map_err(|error| format!("publication {channel} {stream}: {error:?}"))?;
        Ok(Publication::Shared(inner))
    }

    /// Listens for streams at `channel`.
    ///
    /// # Errors
    /// In the driver's words.
    pub fn subscribe(&self, channel: &str, stream: i32) -> Result<Subscription, String> {
        let describe = |error| format!("subscription {channel} {stream}: {error:?}");
        let inner = self
            .client
            .async_add_subscription(&c_string(channel)?, stream, Handlers::NONE, Handlers::NONE)
            .and_then(|adding| adding.poll_blocking(PATIENCE))
            .map_err(describe)?;
        let assembler = AeronFragmentClosureAssembler::new().map_err(describe)?;
        Ok(Subscription { inner, assembler })
    }

    /// Where the driver keeps its files.
    pub fn directory(&self) -> &str {
        self.media.dir()
    }
}

impl Publication {
    /// Whether a receiver has answered, and still does.
    pub fn is_connected(&self) -> bool {
        match self {
            Self::Exclusive(inner) => inner.is_connected(),
            Self::Shared(inner) => inner.is_connected(),
        }
    }

    /// Offers one message, made of parts.
    ///
    /// # Errors
    /// When the stream can take none any more, in the client's words.
    pub fn offer(&self, parts: &[&[u8]]) -> Result<Offered, String> {
        let offered = match self {
            Self::Exclusive(inner) => inner.offer_parts(parts),
            Self::Shared(inner) => inner.offer_parts(parts),
        };
        match offered {
            Ok(_) => Ok(Offered::Taken),
            Err(AeronOfferError::BackPressured | AeronOfferError::AdminAction) => {
                Ok(Offered::Later)
            }
            Err(AeronOfferError::NotConnected) => Ok(Offered::NotConnected),
            Err(error) => Err(format!("offer: {error}")),
        }
    }
}

impl Subscription {
    /// Streams that are being received.
    pub fn images(&self) -> usize {
        self.inner
            .image_count()
            .map_or(0, |count| usize::try_from(count).unwrap_or(0))
    }

    /// Hands the messages of at most `limit` fragments to `take`; returns the fragments.
    ///
    /// # Errors
    /// In the client's words.
    pub fn poll(&mut self, limit: usize, take: &mut dyn FnMut(&[u8])) -> Result<usize, String> {
        fn hand_over(take: &mut &mut dyn FnMut(&[u8]), bytes: &[u8], _header: AeronHeader) {
            take(bytes);
        }
        let mut take = take;
        let polled = self
            .assembler
            .poll(&self.inner, &mut take, hand_over, limit);
        let fragments = polled.map_err(|error| format!("poll: {error:?}"))?;
        Ok(usize::try_from(fragments).unwrap_or(0))
    }
}

fn c_string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|error| error.to_string())
}
