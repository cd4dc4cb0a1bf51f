//! What only a bug of this program can bring about: found at run time, handed up as a value, and in
//! the end a reason to halt. A panic would take a whole board with it, and its driver would hear of
//! no reason.

/// A rule of this program's own that does not hold. Nothing was changed by the call that says so.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Broken {
    /// What was to be published are no whole frames at the log's end.
    Publish,
    /// The log was to be cut where no frame starts.
    Cut,
    /// The room that a record was promised is not there.
    Room,
    /// A record of fixed length was written with another length.
    Encoding,
    /// The frames of a log were to be noted in another order than that of their terms and
    /// positions.
    History,
    /// The node was called with more or fewer services than it is configured for.
    Services,
    /// A leader was to serve more sessions than it has links.
    Served,
    /// A timer was fired without room to remember that.
    Fired,
}

impl core::fmt::Display for Broken {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Publish => "no whole frames at the log's end were to be published",
            Self::Cut => "the log was to be cut where no frame starts",
            Self::Room => "room in the log that was there is gone",
            Self::Encoding => "a record of fixed length was written with another",
            Self::History => "frames of the log were to be noted out of order",
            Self::Services => "called with another number of services than is configured",
            Self::Served => "more sessions were to be served than there are links",
            Self::Fired => "a timer was fired without room to remember it",
        })
    }
}
