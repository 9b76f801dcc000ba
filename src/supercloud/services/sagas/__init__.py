"""What operations on instances do, step by step, as coroutines over ports: no database, no network of their
own. The product runs them durably; the simulation runs the same texts and kills them everywhere."""
