qemu-system-x86_64 -kernel arch/x86/boot/bzImage -initrd initramfs.cpio.gz -append "console=ttyS0 root=/dev/vda rw nokaslr" \
  -m 1G -nographic -s -S -no-reboot -drive file=rootfs.ext4,format=raw,if=virtio \
  -virtfs local,path=/srv/share,mount_tag=host0,security_model=mapped-xattr,id=host0 \
  -net nic,model=virtio -net user,hostfwd=tcp::10022-:22 2>&1 | tee boot.log
