#!/bin/bash
# A desktop guest as people start it by hand: everything that QEMU has a short word for.
qemu-system-x86_64 -enable-kvm -m 4G -smp 4 -cpu host \
  -drive file=disk.qcow2,if=virtio \
  -nic user,model=virtio,hostfwd=tcp::2222-:22 \
  -vga virtio -display gtk -cdrom x.iso -boot menu=on -usb -device usb-tablet
