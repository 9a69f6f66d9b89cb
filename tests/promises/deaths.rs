//! What happens to connections when processes die.
