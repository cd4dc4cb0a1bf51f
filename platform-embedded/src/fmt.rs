//! Logging: through `defmt` if that feature is on, and nothing at all if not. So tests on a host,
//! which have no `defmt` logger, are linked without one.

/// Something an operator may want to know.
macro_rules! info {
    ($($arg:tt)*) => {{
        #[cfg(feature = "defmt")]
        defmt::info!($($arg)*);
        #[cfg(not(feature = "defmt"))]
        { let _ = format_args!($($arg)*); }
    }};
}

/// Something an operator should look at.
macro_rules! warn {
    ($($arg:tt)*) => {{
        #[cfg(feature = "defmt")]
        defmt::warn!($($arg)*);
        #[cfg(not(feature = "defmt"))]
        { let _ = format_args!($($arg)*); }
    }};
}
