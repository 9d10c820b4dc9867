"""Files of a guest, listed and extracted from its disks without root, a kernel module or a restore.

The filesystems are read by The Sleuth Kit (pytsk3: ext2/3/4, NTFS, FAT, exFAT) and libfsxfs, partitions by the first,
logical volumes by libvslvm: the extra ``files`` installs them. What they are given is proved by
:mod:`hyperexport.images`. What they give is the guest's, and the guest may be hostile: no name leads out of the target,
no link is made or followed.
This room must never know of stores and exports.
"""
