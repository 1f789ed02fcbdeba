"""Models of a framework, built anew from a plain graph: real layers under the source's names."""
