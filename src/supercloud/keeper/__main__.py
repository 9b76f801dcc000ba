from supercloud.keeper.main import main

main()
