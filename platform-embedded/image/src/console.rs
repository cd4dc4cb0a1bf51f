//! The serial port as a stream of text.

use core::fmt;

use crate::arch;

/// The machine's serial port.
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(arch::put);
        Ok(())
    }
}

impl embedded_io::ErrorType for Console {
    type Error = core::convert::Infallible;
}

impl embedded_io::Write for Console {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
        bytes.iter().copied().for_each(arch::put);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// Prints a line.
macro_rules! say {
    ($($what:tt)*) => {{
        use core::fmt::Write as _;
        // The port takes everything.
        let _is_said = write!($crate::console::Console, "{}\r\n", format_args!($($what)*)).is_ok();
    }};
}
pub(crate) use say;
