from bqq.cli import main

raise SystemExit(main())
