"""QEMU command lines back to domain documents.

``words_of`` splits the text, ``read_command`` reads it.  libvirt had this (``virsh domxml-from-native``) until 2019.
"""

from qemushim.fromargv.finish import Reading, read_command
from qemushim.fromargv.line import Known, Note
from qemushim.fromargv.shell import Word
from qemushim.fromargv.words import Words, words_of

__all__ = ["Known", "Note", "Reading", "Word", "Words", "read_command", "words_of"]
