//! The enumerated fields of schema 111: each an `int32`, with the values that the schema lists.

use crate::wire::Reject;

/// An enumeration: its values with their numbers.
macro_rules! code {
    (
        $(#[$doc:meta])*
        $name:ident {
            $($(#[$value_doc:meta])* $value:ident = $number:literal,)+
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[cfg_attr(feature = "defmt", derive(defmt::Format))]
        pub enum $name {
            $($(#[$value_doc])* $value = $number,)+
        }

        impl $name {
            /// The value with this number.
            ///
            /// # Errors
            /// [`Reject::Enumerator`] if the schema lists none.
            pub const fn from_wire(number: i32) -> Result<Self, Reject> {
                match number {
                    $($number => Ok(Self::$value),)+
                    _ => Err(Reject::Enumerator),
                }
            }

            /// The number of this value.
            pub const fn to_wire(self) -> i32 {
                self as i32
            }
        }
    };
}

code! {
    /// What a session event says.
    EventCode {
        /// The session is open.
        Ok = 0,
        /// It could not be opened, or something went wrong: see the detail.
        Error = 1,
        /// Another member leads: see the detail.
        Redirect = 2,
        /// The credentials were refused.
        AuthenticationRejected = 3,
        /// The session was closed.
        Closed = 4,
    }
}

code! {
    /// Why a session was closed (schema 111: `CloseReason`).
    CloseReason {
        /// The client asked for it.
        ClientAction = 0,
        /// The service, or an operator, asked for it.
        ServiceAction = 1,
        /// The client was not heard from, or did not take its egress.
        Timeout = 2,
    }
}

code! {
    /// What all members shall do at a position of the log.
    ClusterAction {
        /// Take no ingress.
        Suspend = 0,
        /// Take ingress again.
        Resume = 1,
        /// Take a snapshot.
        Snapshot = 2,
    }
}

code! {
    /// What an operator asks for through a session.
    AdminRequestType {
        /// Take a snapshot.
        Snapshot = 0,
    }
}

code! {
    /// The answer to an operator.
    AdminResponseCode {
        /// Done, or begun.
        Ok = 0,
        /// Not done: see the message.
        Error = 1,
        /// Not allowed.
        UnauthorisedAccess = 2,
    }
}

code! {
    /// The unit of the log's timestamps (schema 111: `ClusterTimeUnit`). Ours are milliseconds.
    TimeUnit {
        /// Milliseconds since 1970.
        Millis = 0,
        /// Microseconds since 1970.
        Micros = 1,
        /// Nanoseconds since 1970.
        Nanos = 2,
    }
}
