//! Which records of one partition are finished: the watermark, and its map in the commit metadata.
