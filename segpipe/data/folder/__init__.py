"""Data sets of the user's own images and masks in folders."""

from segpipe.data.folder.folder import Folder as Folder
