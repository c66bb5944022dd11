//! A sandbox of hardened namespaces, on `libcontainer`.
