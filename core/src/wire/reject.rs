//! Why bytes from outside were refused.

/// Why bytes from outside were refused: a fact to be counted by kind, never a reason to stop.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Reject {
    /// Ends before the fixed part of what it claims to be.
    Short,
    /// An Aeron frame version other than 0.
    FrameVersion,
    /// An Aeron frame type that we do not speak, or one out of place.
    UnknownType,
    /// A frame length that is negative, below its header, or beyond the datagram.
    FrameLength,
    /// A DATA datagram whose frames do not follow one another, or that has bytes after them.
    DatagramShape,
    /// A position or offset that is not a multiple of the frame alignment.
    Alignment,
    /// A stream id that the message may not travel on.
    Stream,
    /// Not one whole message in one frame.
    Fragment,
    /// An SBE schema that is not the one expected.
    UnknownSchema,
    /// An SBE template that we do not know: from a newer peer, to be skipped.
    UnknownTemplate,
    /// An SBE block shorter than its version prescribes.
    BlockLength,
    /// Variable data that reaches beyond the message, or is longer than its bound.
    VarData,
    /// Text that is not ASCII.
    Text,
    /// A number outside the range that its field allows.
    Value,
    /// An enumerated field with a value that its schema does not list.
    Enumerator,
    /// A term history that does not ascend, does not fit, or has terms that are to come.
    History,
    /// A channel that is not `aeron:udp?...` with an endpoint, or too long.
    Channel,
    /// An endpoint that is not `host:port`, or too long.
    Endpoint,
    /// A list of ingress endpoints that is not `id=host:port,...` with ascending ids.
    EndpointList,
    /// A status query shorter than its report would be: answering it would amplify.
    Amplification,
}

impl Reject {
    /// Every kind, in the order of [`Reject::index`].
    pub const ALL: [Self; 20] = [
        Self::Short,
        Self::FrameVersion,
        Self::UnknownType,
        Self::FrameLength,
        Self::DatagramShape,
        Self::Alignment,
        Self::Stream,
        Self::Fragment,
        Self::UnknownSchema,
        Self::UnknownTemplate,
        Self::BlockLength,
        Self::VarData,
        Self::Text,
        Self::Value,
        Self::Enumerator,
        Self::History,
        Self::Channel,
        Self::Endpoint,
        Self::EndpointList,
        Self::Amplification,
    ];
    /// How many kinds there are: the length of a table of counters.
    pub const COUNT: usize = Self::ALL.len();

    /// A stable small number, below [`Reject::COUNT`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// A short name for tables and counters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::FrameVersion => "frame_version",
            Self::UnknownType => "unknown_type",
            Self::FrameLength => "frame_length",
            Self::DatagramShape => "datagram_shape",
            Self::Alignment => "alignment",
            Self::Stream => "stream",
            Self::Fragment => "fragment",
            Self::UnknownSchema => "unknown_schema",
            Self::UnknownTemplate => "unknown_template",
            Self::BlockLength => "block_length",
            Self::VarData => "var_data",
            Self::Text => "text",
            Self::Value => "value",
            Self::Enumerator => "enumerator",
            Self::History => "history",
            Self::Channel => "channel",
            Self::Endpoint => "endpoint",
            Self::EndpointList => "endpoint_list",
            Self::Amplification => "amplification",
        }
    }
}

impl core::fmt::Display for Reject {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

impl core::error::Error for Reject {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_kinds_is_in_the_order_of_their_numbers() {
        for (index, reject) in Reject::ALL.iter().enumerate() {
            assert_eq!(reject.index(), index);
        }
    }

    #[test]
    fn no_two_kinds_share_a_name() {
        for a in Reject::ALL {
            let same = Reject::ALL.iter().filter(|b| b.name() == a.name()).count();
            assert_eq!(same, 1, "{a}");
        }
    }
}
