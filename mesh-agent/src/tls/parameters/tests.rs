//! Settings in words, and handshakes between all that can be said.
