qemu-system-aarch64 -M virt,gic-version=3 -cpu cortex-a72 -smp 4 -m 2048 -bios /usr/share/qemu-efi-aarch64/QEMU_EFI.fd \
  -drive if=none,file=/srv/debian-12-generic-arm64.qcow2,id=hd0,format=qcow2 -device virtio-blk-device,drive=hd0 \
  -netdev user,id=net0,hostfwd=tcp:127.0.0.1:5555-:22 -device virtio-net-device,netdev=net0 \
  -device virtio-rng-pci -serial mon:stdio -display none
