//! Why a command ends without success, and its exit code.

use std::fmt;
use std::io;

use crate::config::ConfigError;
use crate::net::socket::BindError;
use crate::node::NodeError;
use crate::storage::StorageError;
use crate::walk::WalkError;

/// See `coracle --help` for the codes.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    text: String,
    is_broken_pipe: bool,
}

impl Failure {
    /// The outcome is not what was asked for.
    pub fn outcome(text: impl Into<String>) -> Self {
        Self::new(1, text)
    }

    /// Wrong usage or configuration.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::new(2, text)
    }

    /// No answer from the cluster.
    pub fn no_answer(text: impl Into<String>) -> Self {
        Self::new(5, text)
    }

    fn new(code: u8, text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            code,
            text,
            is_broken_pipe: false,
        }
    }

    /// The process's exit code.
    pub fn code(&self) -> u8 {
        self.code
    }

    /// Whoever read our output has had enough (`coracle log | head`): no error.
    pub fn is_broken_pipe(&self) -> bool {
        self.is_broken_pipe
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        let code = match &error {
            NodeError::Config(_) | NodeError::Core(_) => 2,
            NodeError::Storage(_) | NodeError::Halted(_) => 3,
            NodeError::Bind(_) | NodeError::Group(_) | NodeError::Name { .. } => 4,
            NodeError::System(_) | NodeError::Service(_) | NodeError::StateLeft => 1,
        };
        Self::new(code, error.to_string())
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self::new(3, error.to_string())
    }
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        Self::new(4, error.to_string())
    }
}

impl From<WalkError> for Failure {
    fn from(error: WalkError) -> Self {
        match error {
            WalkError::Storage(error) => error.into(),
            other @ (WalkError::Bad { .. } | WalkError::Gone { .. }) => {
                Self::outcome(other.to_string())
            }
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self {
            is_broken_pipe: error.kind() == io::ErrorKind::BrokenPipe,
            ..Self::new(1, error.to_string())
        }
    }
}
