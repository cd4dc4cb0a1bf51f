//! A panic, planted: the check that finds no other has to find this one.

/// Of what follows the compiler is not told which it is.
pub fn pick(at: usize) -> u8 {
    [1, 2, 3, 5][at]
}
