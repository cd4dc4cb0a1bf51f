//! All of some bytes, or an error. The library's own loops panic where a stream says that it has
//! taken nothing, or more than it was given.

use embedded_io::{Read, ReadExactError, Write, WriteFmtError};

/// Writes all of `bytes`. Work: theirs, at one at least for each call of the stream.
///
/// # Errors
/// The stream's own; [`WriteFmtError::FmtError`] if it is wrong about how much it has taken.
pub fn write_all<W: Write + ?Sized>(
    out: &mut W,
    bytes: &[u8],
) -> Result<(), WriteFmtError<W::Error>> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let taken = out.write(rest).map_err(WriteFmtError::Other)?;
        let behind = rest.get(taken..).filter(|_| taken > 0);
        rest = behind.ok_or(WriteFmtError::FmtError)?;
    }
    Ok(())
}

/// Fills all of `bytes`. Work: as that of [`write_all`].
///
/// # Errors
/// The stream's own; [`ReadExactError::UnexpectedEof`] if it ends before, or is wrong about how
/// much it has given.
pub fn read_exact<R: Read + ?Sized>(
    from: &mut R,
    bytes: &mut [u8],
) -> Result<(), ReadExactError<R::Error>> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let given = from.read(rest).map_err(ReadExactError::Other)?;
        let behind = rest.get_mut(given..).filter(|_| given > 0);
        rest = behind.ok_or(ReadExactError::UnexpectedEof)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use embedded_io::{ErrorKind, ErrorType};

    use super::*;

    /// Says of each call what it is told to say, and keeps what it was given.
    struct Liar(Vec<usize>, Vec<u8>);

    impl ErrorType for Liar {
        type Error = ErrorKind;
    }

    impl Write for Liar {
        fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
            let taken = self.0.remove(0);
            self.1.extend(bytes.iter().take(taken));
            Ok(taken)
        }
        fn flush(&mut self) -> Result<(), ErrorKind> {
            Ok(())
        }
    }

    impl Read for Liar {
        fn read(&mut self, into: &mut [u8]) -> Result<usize, ErrorKind> {
            let given = self.0.remove(0);
            into.iter_mut().take(given).for_each(|byte| *byte = 7);
            Ok(given)
        }
    }

    #[test]
    fn a_stream_that_is_wrong_about_what_it_took_is_an_error_and_no_panic() {
        let mut honest = Liar(vec![1, 2, 1], Vec::new());
        assert!(write_all(&mut honest, b"four").is_ok());
        assert_eq!(honest.1, b"four");
        for lies in [vec![0], vec![5], vec![3, 2], vec![usize::MAX]] {
            let mut liar = Liar(lies.clone(), Vec::new());
            let written = write_all(&mut liar, b"four");
            assert!(matches!(written, Err(WriteFmtError::FmtError)), "{lies:?}");
            let read = read_exact(&mut Liar(lies, Vec::new()), &mut [0; 4]);
            assert!(matches!(read, Err(ReadExactError::UnexpectedEof)));
        }
        let mut bytes = [0; 4];
        assert!(read_exact(&mut Liar(vec![3, 1], Vec::new()), &mut bytes).is_ok());
        assert_eq!(bytes, [7; 4]);
    }
}
