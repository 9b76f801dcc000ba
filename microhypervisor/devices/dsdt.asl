/* What a partition's kernel learns of its machine beyond the fixed tables: a PCI root bus, a serial port and a clock without
 * interrupts (kernels poll such ports, and such a clock wakes nobody), a power button that nobody presses yet (who waits for one finds
 * it), and how it is switched off. Compiled by iasl; interpreted by partitions only. */
DefinitionBlock ("dsdt.aml", "DSDT", 2, "SUPERC", "MICROHYP", 1)
{
    Name (\_S5, Package () { 5, 5, 0, 0 })
    Scope (\_SB)
    {
        Device (PCI0)
        {
            Name (_HID, EisaId ("PNP0A03"))
            Name (_BBN, 0)
            Name (_CRS, ResourceTemplate ()
            {
                WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode, 0, 0, 0xff, 0, 0x100)
                IO (Decode16, 0xcf8, 0xcf8, 1, 8)
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
                             0, 0xc0000000, 0xfebfffff, 0, 0x3ec00000)
            })
        }
        Device (COM1)
        {
            Name (_HID, EisaId ("PNP0501"))
            Name (_UID, 1)
            Name (_CRS, ResourceTemplate () { IO (Decode16, 0x3f8, 0x3f8, 1, 8) })
        }
        Device (RTC0)
        {
            Name (_HID, EisaId ("PNP0B00"))
            Name (_CRS, ResourceTemplate () { IO (Decode16, 0x70, 0x70, 1, 2) })
        }
        Device (PWRB)
        {
            Name (_HID, EisaId ("PNP0C0C"))
        }
    }
}
