//! Keeps the CNI plugin in the container runtime's configuration.
