"""A ladder or its unsolved questions as self-contained HTML pages, made from the files that a build writes."""
