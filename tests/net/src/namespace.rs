//! node processes (to come)
