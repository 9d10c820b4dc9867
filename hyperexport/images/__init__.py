"""The one way out: any disk of any export as a random-access image of the guest's bytes.

It makes no difference where a disk lies (a folder or S3), in what (an OVF package or an OVA), whether its bytes belong
to an earlier export, or in how many files: a disk is a stack of VMDKs, a base and the deltas over it, and each grain
comes from the newest file that has one. Restore, convert, NBD and file access read through here.

No byte counts before it is proved. Read from beginning to end (:mod:`hyperexport.images.stream`), a file is proved by
the SHA-256 in the manifest; read in ranges (:mod:`hyperexport.images.verified`), each 256 KiB block is proved by the
tag that the export left beside the disk, and where it left none, the whole file is read and proved first. The zlib
checksum within each grain (Adler-32) is checked too, but is no proof: it cannot tell one valid grain from another.
This room must never know what the bytes are read for, nor change an export.
"""
